"""The fallback for families without plugin: a table of transformers' classes at tiny size."""

from __future__ import annotations

import copy

import pytest
import torch
from blip2 import blip2_texts
from conftest import PROMPTS, TEXTS, assert_same_loss, family, plain_decoder_loss, random_model, soft_prompts_for
from tiny_tokenizers import byte_level, metaspace
from transformers import AutoConfig, AutoModelForImageTextToText

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.fallback import fallback_family

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=344)
SIZES |= dict(max_position_embeddings=128, pad_token_id=None)
GROUPED = {"num_key_value_heads": 2}
HEADS = {"head_dim": 8}
BLOOM = dict(hidden_size=32, n_layer=2, n_head=4, vocab_size=344)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=344, n_positions=128)
EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
FALCON = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=344)

# model type, changes to the sizes, whether the tree is right for it
TABLE = [
    ("qwen2", SIZES | GROUPED, True),
    ("qwen3", SIZES | GROUPED | HEADS, True),
    ("qwen3_moe", SIZES | GROUPED | HEADS | dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16), True),
    ("mistral", SIZES | GROUPED, True),
    ("mistral", SIZES | GROUPED | {"sliding_window": 16}, True),
    ("mistral", SIZES | GROUPED | {"sliding_window": 6}, False),
    ("mixtral", SIZES | GROUPED | EXPERTS, True),
    ("gemma", SIZES | GROUPED | HEADS, True),
    ("gemma2", SIZES | GROUPED | HEADS | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0}, True),
    ("gemma3_text", SIZES | GROUPED | HEADS, True),
    ("gemma3_text", SIZES | GROUPED | HEADS | {"sliding_window": 16, "final_logit_softcapping": 2.0}, True),
    ("gemma3_text", SIZES | GROUPED | HEADS | {"sliding_window": 6}, False),
    ("phi", SIZES, True),
    ("phi3", SIZES | GROUPED, True),
    ("gpt_neox", SIZES, True),
    ("gpt_neox", SIZES | {"use_parallel_residual": False}, True),
    ("gpt2", GPT2, True),
    ("gptj", GPT2 | {"rotary_dim": 4}, True),
    ("gpt_bigcode", GPT2, True),
    ("bloom", BLOOM, False),
    ("mpt", dict(d_model=32, n_layers=2, n_heads=4, vocab_size=344, max_seq_len=128), False),
    ("falcon", FALCON, True),
    ("falcon", FALCON | {"alibi": True}, False),
    ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}, True),
    ("smollm3", SIZES | GROUPED, True),
    ("cohere", SIZES | GROUPED | {"logit_scale": 0.3}, True),
    ("granite", SIZES | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}, True),
    ("olmo2", SIZES | GROUPED, True),
    ("stablelm", SIZES | GROUPED, True),
    ("starcoder2", SIZES | GROUPED, True),
    ("mamba", dict(hidden_size=32, num_hidden_layers=2, vocab_size=344, state_size=4), False),
]
NAMES = [f"{n}-{kind}" for n, (kind, _, _) in enumerate(TABLE)]
table = pytest.mark.parametrize(("kind", "sizes", "shares"), TABLE, ids=NAMES)


def fallback(kind: str, sizes: dict, tokenizer=None, dtype=torch.float32):
    model = random_model(AutoConfig.for_model(kind, **sizes), dtype)
    if "attn_logit_softcapping" in sizes:
        model.set_attn_implementation("eager")  # the only kernel that computes it, whatever is the default
    described = fallback_family(kind)
    return load(described.adapter)(copy.deepcopy(model), tokenizer or metaspace(), described), model


@table
def test_loss_and_gradient_equal_plain_transformers(kind, sizes, shares):
    llm, model = fallback(kind, sizes)
    assert llm.shares_prefix is shares
    assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 2e-5)


@table
def test_padding_and_batching_change_nothing(kind, sizes, shares):
    """Each image alone gives the same losses as all in one batch, in padded rows too."""
    llm, model = fallback(kind, sizes)
    prompts = soft_prompts_for(model).detach()
    for share in {shares, False}:
        llm.shares_prefix = share
        whole = llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
        alone = sum(llm.loss(prompts[[i]], llm.layout([TEXTS[i]], PROMPTS)) for i in range(len(TEXTS)))
        assert float(whole) == pytest.approx(float(alone), rel=1e-5)


@table
def test_words_enter_as_soft_prompts_do(kind, sizes, shares):
    """`inputs_embeds=embed(ids)` equals `input_ids=ids`: Gemma's and Granite's scales are where they must be."""
    llm, model = fallback(kind, sizes)
    ids = torch.randint(4, 300, (2, 7))
    expected = model(input_ids=ids).logits
    assert torch.allclose(llm.model(inputs_embeds=llm.embed(ids)).logits, expected, rtol=1e-4, atol=1e-4)


@table
def test_generation_ends(kind, sizes, shares):
    llm, model = fallback(kind, sizes)
    prompts = soft_prompts_for(model).detach()
    texts = llm.generate(prompts, "", GenerateOptions(num_beams=2, max_new_tokens=6, min_new_tokens=1))
    assert len(texts) == len(prompts) and all("\n" not in text and "</s>" not in text for text in texts)

    def say_the_end(module, inputs, logits):
        logits[..., llm.text.end] = 1e4

    llm.model.get_output_embeddings().register_forward_hook(say_the_end)
    options = GenerateOptions(num_beams=1, max_new_tokens=9, min_new_tokens=2)
    out = llm.model.generate(inputs_embeds=prompts, generation_config=llm.generation_arguments(options))
    assert out.shape[1] == 3 and (out[:, -1] == llm.text.end).all()


@pytest.mark.parametrize("kind", ["qwen2", "gemma", "gpt_neox"])
@pytest.mark.parametrize("tokenizer", [byte_level, lambda: byte_level(None)], ids=["start", "no start"])
def test_generate_equals_blip2(kind, tokenizer):
    llm, _ = fallback(kind, next(sizes for name, sizes, _ in TABLE if name == kind), tokenizer())
    mine, theirs = blip2_texts(llm, "a red", GenerateOptions(num_beams=3, max_new_tokens=8, min_new_tokens=2))
    assert mine == theirs and len(set(mine)) > 1


def test_no_padding_token_and_no_start_token():
    llm, model = fallback("qwen2", SIZES | GROUPED, byte_level(None))
    assert llm.tokenizer.pad_token_id is None and llm.text.start == ()
    assert llm.generation_settings()["pad_token_id"] == llm.tokenizer.eos_token_id
    assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_attention_softcap_is_computed():
    """sdpa knows no softcap: the model must run on a kernel that does."""
    config = AutoConfig.for_model("gemma2", **(SIZES | GROUPED | HEADS | {"attn_logit_softcapping": 3.0}))
    llm = AnyCausalLM(random_model(config), metaspace(), fallback_family("gemma2"))
    assert llm.model.config._attn_implementation == "eager" and not llm.bool_masks


def test_half_precision_may_share_too():
    llm, _ = fallback("qwen2", SIZES | GROUPED, dtype=torch.bfloat16)
    assert llm.shares_prefix


def test_a_multimodal_wrapper_gives_its_language_model():
    text = SIZES | GROUPED | HEADS | {"pad_token_id": 0}
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision | {"patch_size": 14}, mm_tokens_per_image=4
    )
    wrapper = random_model(config, auto=AutoModelForImageTextToText)
    llm = AnyCausalLM(copy.deepcopy(wrapper), metaspace(), fallback_family("gemma3"))
    assert type(llm.model).__name__ == "Gemma3ForCausalLM"
    assert not any(p.is_meta for p in llm.model.state_dict().values())
    ids = torch.randint(4, 300, (2, 7))
    assert torch.allclose(llm.model(input_ids=ids).logits, wrapper(input_ids=ids).logits, atol=1e-5)
    assert_same_loss(llm, lambda p: plain_decoder_loss(llm.model, p, TEXTS), soft_prompts_for(llm.model), TEXTS, 1e-5)


def test_a_model_that_reads_its_tokens_elsewhere_is_refused():
    model = random_model(AutoConfig.for_model("qwen2", **(SIZES | GROUPED)))

    def add_something(module, arguments, keywords):
        if keywords.get("input_ids") is not None:
            keywords["inputs_embeds"] = module.embed_tokens(keywords.pop("input_ids")) * 1.3
        return arguments, keywords

    model.model.register_forward_pre_hook(add_something, with_kwargs=True)
    with pytest.raises(ModelError, match="something else from word embeddings"):
        AnyCausalLM(model, metaspace(), family("qwen2"))


def test_a_model_that_ignores_the_mask_does_not_share():
    model = random_model(AutoConfig.for_model("qwen2", **(SIZES | GROUPED)))

    def drop_the_mask(module, arguments, keywords):
        if keywords["attention_mask"].ndim == 4:
            keywords["attention_mask"] = None
        return arguments, keywords

    model.model.register_forward_pre_hook(drop_the_mask, with_kwargs=True)
    assert not AnyCausalLM(model, metaspace(), family("qwen2")).shares_prefix


def test_families_by_model_type():
    assert fallback_family("qwen3").adapter == "vpgtrans_core.llm.any_causal:AnyCausalLM"
    assert fallback_family("bart").encoder_decoder
    with pytest.raises(ModelError, match="no language model of type 'qwn3'") as caught:
        fallback_family("qwn3")
    assert "qwen3" in caught.value.hint

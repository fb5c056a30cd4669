"""The fallback for families without plugin: a table of transformers' classes at tiny size."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from blip2 import blip2_texts
from conftest import PROMPTS, TEXTS, assert_same_loss, family, random_model, soft_prompts_for
from model_classes import EVERY, GROUPED, HEADS, ROWS, TABLE, TREE
from model_classes import load as fallback
from tiny_tokenizers import byte_level, metaspace
from transformers import AutoConfig, AutoModelForImageTextToText

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.llm.text import Text
from vpgtrans_core.testing.plain import plain_loss

WORKING = [tried for tried in TABLE if tried.answer in (TREE, ROWS)]
REFUSED = [tried for tried in TABLE if tried not in WORKING]
NAMED = {tried.name: tried for tried in TABLE}
QWEN2 = NAMED["Qwen2"]
table = pytest.mark.parametrize("tried", WORKING, ids=lambda tried: tried.name)


@table
def test_loss_and_gradient_equal_plain_transformers(tried):
    llm, model = fallback(tried)
    assert llm.shares_prefix is (tried.answer == TREE)
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 2e-5)


@table
def test_padding_and_batching_change_nothing(tried):
    """Each image alone gives the same losses as all in one batch, in padded rows too."""
    llm, model = fallback(tried)
    prompts = soft_prompts_for(model).detach()
    for share in {llm.shares_prefix, False}:
        llm.shares_prefix = share
        whole = llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
        alone = sum(llm.loss(prompts[[i]], llm.layout([TEXTS[i]], PROMPTS)) for i in range(len(TEXTS)))
        assert float(whole) == pytest.approx(float(alone), rel=1e-5)


@table
def test_words_enter_as_soft_prompts_do(tried):
    """`inputs_embeds=embed(ids)` equals `input_ids=ids`: Gemma's and Granite's scales are where they must be."""
    llm, model = fallback(tried)
    ids = torch.randint(4, 300, (2, 7))
    expected = model(input_ids=ids).logits
    assert torch.allclose(llm.model(inputs_embeds=llm.embed(ids)).logits, expected, rtol=1e-4, atol=1e-4)


@table
def test_generation_ends(tried):
    llm, model = fallback(tried)
    prompts = soft_prompts_for(model).detach()
    texts = llm.generate(prompts, "", GenerateOptions(num_beams=2, max_new_tokens=6, min_new_tokens=1))
    assert len(texts) == len(prompts) and all("\n" not in text and "</s>" not in text for text in texts)

    def say_the_end(module, inputs, logits):
        logits[..., llm.text.end] = 1e4

    llm.model.get_output_embeddings().register_forward_hook(say_the_end)
    options = GenerateOptions(num_beams=1, max_new_tokens=9, min_new_tokens=2)
    out = llm.model.generate(inputs_embeds=prompts, generation_config=llm.generation_arguments(options))
    assert out.shape[1] == 3 and (out[:, -1] == llm.text.end).all()


@table
def test_the_order_of_pictures_changes_nothing(tried):
    llm, model = fallback(tried)
    prompts = soft_prompts_for(model).detach()
    order = [2, 0, 3, 1]
    there = llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
    back = llm.loss(prompts[order], llm.layout([TEXTS[i] for i in order], PROMPTS))
    assert float(there) == pytest.approx(float(back), rel=1e-5)


@pytest.mark.parametrize("tried", REFUSED, ids=lambda tried: tried.name)
def test_what_cannot_work_is_refused_before_it_is_trained(tried):
    with pytest.raises(ModelError) as caught:
        fallback(tried)
    assert tried.answer in caught.value.message and "plugin" in caught.value.hint


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma", "GPT-NeoX (Pythia)"])
@pytest.mark.parametrize("tokenizer", [byte_level, lambda: byte_level(None)], ids=["start", "no start"])
def test_generate_equals_blip2(kind, tokenizer):
    llm, _ = fallback(NAMED[kind], tokenizer())
    mine, theirs = blip2_texts(llm, "a red", GenerateOptions(num_beams=3, max_new_tokens=8, min_new_tokens=2))
    assert mine == theirs and len(set(mine)) > 1


def test_the_documents_table_is_this_one():
    """Names and answers; the numbers are printed by ``python tests/llm/model_classes.py``."""
    answers = {TREE: "share its prefix", ROWS: "a row each"}
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    for tried in EVERY:
        assert f"| {tried.name} | `{tried.kind}` | {answers.get(tried.answer, 'refused: ')}" in text


def test_rows_longer_than_the_probed_one_are_not_shared():
    llm, _ = fallback(QWEN2)
    few = [[Text.of((), (5, *range(6, 6 + n), 9)) for n in range(3, 6)]]
    many = [[Text.of((), (5, n, *range(20, 30), 9)) for n in range(200)]]
    assert llm.layout(few, PROMPTS).attention is None
    assert llm.layout(many, PROMPTS).attention is not None


def test_no_padding_token_and_no_start_token():
    llm, model = fallback(QWEN2, byte_level(None))
    assert llm.tokenizer.pad_token_id is None and llm.text.start == ()
    assert llm.generation_settings()["pad_token_id"] == llm.tokenizer.eos_token_id
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_attention_softcap_is_computed():
    """sdpa knows no softcap: the model must run on a kernel that does."""
    config = AutoConfig.for_model("gemma2", **(HEADS | {"attn_logit_softcapping": 3.0}))
    llm = AnyCausalLM(random_model(config), metaspace(), fallback_family("gemma2"))
    assert llm.model.config._attn_implementation == "eager" and not llm.bool_masks


def test_half_precision_may_share_too():
    llm, _ = fallback(QWEN2, dtype=torch.bfloat16)
    assert llm.shares_prefix


def test_a_multimodal_wrapper_gives_its_language_model():
    text = HEADS | {"pad_token_id": 0}
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
    assert_same_loss(llm, lambda p: plain_loss(llm.model, p, TEXTS), soft_prompts_for(llm.model), TEXTS, 1e-5)


def test_a_model_that_reads_its_tokens_elsewhere_is_refused():
    model = random_model(AutoConfig.for_model("qwen2", **GROUPED))

    def add_something(module, arguments, keywords):
        if keywords.get("input_ids") is not None:
            keywords["inputs_embeds"] = module.embed_tokens(keywords.pop("input_ids")) * 1.3
        return arguments, keywords

    model.model.register_forward_pre_hook(add_something, with_kwargs=True)
    with pytest.raises(ModelError, match="computes different logits from word embeddings"):
        AnyCausalLM(model, metaspace(), family("qwen2"))


def test_a_model_that_ignores_the_mask_does_not_share():
    model = random_model(AutoConfig.for_model("qwen2", **GROUPED))

    def drop_the_mask(module, arguments, keywords):
        if getattr(keywords["attention_mask"], "ndim", 0) == 4:
            keywords["attention_mask"] = None
        return arguments, keywords

    model.model.register_forward_pre_hook(drop_the_mask, with_kwargs=True)
    assert not AnyCausalLM(model, metaspace(), family("qwen2")).shares_prefix


def test_families_by_model_type():
    assert fallback_family("qwen3").adapter == "vpgtrans_core.llm.any_causal:AnyCausalLM"
    assert fallback_family("bart").encoder_decoder
    with pytest.raises(ModelError, match="does not support language models of type 'qwn3'") as caught:
        fallback_family("qwn3")
    assert "qwen3" in caught.value.hint

"""The fallback for families without plugin: transformers' classes at tiny size pass the kit, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from blip2 import blip2_texts
from conftest import TEXTS, assert_same_loss, family, random_model, soft_prompts_for
from tiny_tokenizers import byte_level, metaspace
from transformers import AutoConfig, AutoModelForImageTextToText

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.registry import load_registry
from vpgtrans_core.testing.checks import run_check
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.llm_subject import LLMSubject
from vpgtrans_core.testing.opening import Opened
from vpgtrans_core.testing.plain import plain_loss

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=344)
SIZES |= dict(num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=None)

SOFTCAPS = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 3.0}
GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}
LOCAL = {"attention_types": [[["global", "local"], 1]]}

# model type, changes to the kit's tiny config, whether the tree is right for it
TABLE = [
    ("qwen2", {}, True),
    ("qwen3", {}, True),
    ("qwen3_moe", {}, True),
    ("mistral", {}, True),
    ("mistral", {"sliding_window": 16}, True),
    ("mistral", {"sliding_window": 6}, False),
    ("mixtral", {}, True),
    ("gemma", {}, True),
    ("gemma2", SOFTCAPS, True),
    ("gemma3_text", {}, True),
    ("gemma3_text", {"sliding_window": 16, "final_logit_softcapping": 2.0}, True),
    ("gemma3_text", {"sliding_window": 6}, False),
    ("phi", {}, True),
    ("phi3", {}, True),
    ("gpt_neox", {}, True),
    ("gpt_neox", {"use_parallel_residual": False}, True),
    ("gpt2", {}, True),
    ("gptj", {}, True),
    ("gpt_neo", LOCAL | {"window_size": 512}, True),
    ("gpt_neo", LOCAL | {"window_size": 256}, False),
    ("gpt_bigcode", {}, True),
    ("bloom", {}, False),
    ("mpt", {}, False),
    ("falcon", {}, True),
    ("falcon", {"alibi": True}, False),
    ("falcon", {"new_decoder_architecture": True}, True),
    ("smollm3", {}, True),
    ("cohere", {"logit_scale": 0.3}, True),
    ("granite", GRANITE, True),
    ("olmo2", {}, True),
    ("stablelm", {}, True),
    ("starcoder2", {}, True),
    ("mamba", {"state_size": 4}, False),
]
BETWEEN = {
    "bloom": "a norm stands between table and first block, and `inputs_embeds` passes through it too",
    "granite": "a factor stands between table and first block, and `inputs_embeds` passes through it too",
}
NO_PLUGIN = ("torch_free_import", "transfer_of_two_steps")
"""Checks that are of a plugin; a transfer to a model without one is tested with the pipeline."""


class Plugin:
    """What a plugin would say that leaves all to the fallback."""

    def __init__(self, kind: str) -> None:
        self.family = fallback_family(kind)

    @hookimpl
    def vpgt_llm_families(self):
        return [self.family]


@pytest.fixture(scope="module", params=TABLE, ids=[f"{n}-{kind}" for n, (kind, *_) in enumerate(TABLE)])
def row(request):
    """A row of the table: the kit's subject, and whether the tree is right for it."""
    kind, config, shares = request.param
    registry = load_registry()
    record = registry.add(Plugin(kind), f"plain_{kind}")
    unsupported = {} if shares else {"packing_changes_nothing": "the probe finds that it cannot"}
    if kind in BETWEEN:
        unsupported["embedding_table_is_what_the_first_block_sees"] = BETWEEN[kind]
    subject = LLMSubject(Opened(kind, record, registry), kind, config=config, unsupported=unsupported)
    yield subject, shares
    subject.close()


@pytest.mark.parametrize("check", [c for c in LLM_CHECKS if c.name not in NO_PLUGIN], ids=lambda c: c.name)
def test_it_passes_the_kit(row, check):
    subject, _ = row
    result = run_check(check, subject)
    assert result.outcome == ("unsupported" if check.name in subject.unsupported else "passed"), result.reason


def test_the_probe_finds_what_packs(row):
    subject, shares = row
    assert subject.llm().shares_prefix is shares


def fallback(kind: str, changes: dict, tokenizer=None, dtype=torch.float32):
    model = random_model(AutoConfig.for_model(kind, **SIZES, **changes), dtype)
    described = fallback_family(kind)
    return load(described.adapter)(copy.deepcopy(model), tokenizer or metaspace(), described), model


@pytest.mark.parametrize("kind", ["qwen2", "gemma", "gpt_neox"])
@pytest.mark.parametrize("tokenizer", [byte_level, lambda: byte_level(None)], ids=["start", "no start"])
def test_generate_equals_blip2(kind, tokenizer):
    llm, _ = fallback(kind, {}, tokenizer())
    mine, theirs = blip2_texts(llm, "a red", GenerateOptions(num_beams=3, max_new_tokens=8, min_new_tokens=2))
    assert mine == theirs and len(set(mine)) > 1


def test_no_padding_token_and_no_start_token():
    llm, model = fallback("qwen2", {}, byte_level(None))
    assert llm.tokenizer.pad_token_id is None and llm.text.start == ()
    assert llm.generation_settings()["pad_token_id"] == llm.tokenizer.eos_token_id
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_attention_softcap_is_computed():
    """sdpa knows no softcap: the model must run on a kernel that does."""
    config = AutoConfig.for_model("gemma2", **(SIZES | {"attn_logit_softcapping": 3.0}))
    llm = AnyCausalLM(random_model(config), metaspace(), fallback_family("gemma2"))
    assert llm.model.config._attn_implementation == "eager" and not llm.bool_masks


def test_half_precision_may_share_too():
    llm, _ = fallback("qwen2", {}, dtype=torch.bfloat16)
    assert llm.shares_prefix


def test_a_multimodal_wrapper_gives_its_language_model():
    text = SIZES | {"pad_token_id": 0}
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
    model = random_model(AutoConfig.for_model("qwen2", **SIZES))

    def add_something(module, arguments, keywords):
        if keywords.get("input_ids") is not None:
            keywords["inputs_embeds"] = module.embed_tokens(keywords.pop("input_ids")) * 1.3
        return arguments, keywords

    model.model.register_forward_pre_hook(add_something, with_kwargs=True)
    with pytest.raises(ModelError, match="something else from word embeddings"):
        AnyCausalLM(model, metaspace(), family("qwen2"))


def test_a_model_that_ignores_the_mask_does_not_share():
    model = random_model(AutoConfig.for_model("qwen2", **SIZES))

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

"""Decoder-only adapters against plain transformers on tiny random models."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from conftest import (
    PROMPTS,
    TEXTS,
    assert_same_loss,
    family,
    llama_config,
    opt_config,
    plain_decoder_loss,
    random_model,
    soft_prompts_for,
)
from llm_opt.adapter import OPT
from tiny_tokenizers import byte_level, metaspace

from vpgtrans_core.data.sample import Caption
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.decoder import DecoderOnlyLLM

OPTS = {
    "pre-norm": {},
    "post-norm": {"do_layer_norm_before": False},
    "350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
}
LLAMAS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "llama3": {
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}


def opt(dtype=torch.float32, share=True, **changes) -> tuple[OPT, torch.nn.Module]:
    """The adapter and an untouched copy of its model."""
    model = random_model(opt_config(**changes), dtype)
    return OPT(copy.deepcopy(model), byte_level(), family("opt"), share), model


def llama(dtype=torch.float32, share=True, **changes) -> tuple[DecoderOnlyLLM, torch.nn.Module]:
    model = random_model(llama_config(**changes), dtype)
    return DecoderOnlyLLM(copy.deepcopy(model), metaspace(), family("llama"), share), model


def plain_opt(model, soft_prompts):
    """A plain loss for an OPT with projections: soft prompts must enter after `project_in`."""
    decoder = model.get_decoder()
    if decoder.project_in is None:
        return plain_decoder_loss(model, soft_prompts, TEXTS)
    model = copy.deepcopy(model)
    project_in, decoder = decoder.project_in, model.get_decoder()
    decoder.project_in = None
    words = model.get_input_embeddings()
    model.get_input_embeddings = lambda: lambda ids: project_in(words(ids))
    return plain_decoder_loss(model, soft_prompts, TEXTS)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", OPTS)
def test_opt_loss_and_gradient_equal_plain_transformers(kind, share):
    llm, model = opt(torch.float64, share, **OPTS[kind])
    assert llm.shares_prefix is share
    assert_same_loss(llm, lambda p: plain_opt(model, p), soft_prompts_for(model), TEXTS, 1e-8)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", LLAMAS)
def test_llama_loss_and_gradient_equal_plain_transformers(kind, share):
    llm, model = llama(share=share, **LLAMAS[kind])
    assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_eager_attention_gets_a_float_mask():
    llm, model = llama()
    llm.model.set_attn_implementation("eager")
    llm.freeze()
    assert not llm.bool_masks
    assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_a_wrong_mask_would_be_seen(monkeypatch):
    """The parity above can fail: captions that see each other give another loss."""
    llm, model = llama()
    causal = torch.ones(1, 1, 512, 512, dtype=torch.bool).tril()
    monkeypatch.setattr(
        "vpgtrans_core.llm.rows.DecoderRows.mask", lambda rows: causal[..., : rows.ids.shape[1], : rows.ids.shape[1]]
    )
    with pytest.raises(AssertionError):
        assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-3)


@pytest.mark.parametrize("make", [opt, llama])
def test_half_precision_stays_near(make):
    llm, model = make(torch.bfloat16)
    prompts = soft_prompts_for(model)
    loss = llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
    assert loss.dtype == torch.float32
    expected = plain_decoder_loss(model.float(), prompts.detach().float(), TEXTS)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-2)


def test_sharing_computes_fewer_positions():
    llm, _ = llama()
    shared, padded = llm.layout(TEXTS, PROMPTS), llama(share=False)[0].layout(TEXTS, PROMPTS)
    assert shared.labels == padded.labels == sum(len(t.target) for image in TEXTS for t in image)
    assert shared.positions < 0.7 * padded.positions
    assert shared.positions <= sum(llm.positions(image, PROMPTS) for image in TEXTS)


def test_rows_longer_than_a_sliding_window_are_not_shared():
    llm, _ = llama()
    assert llm.layout(TEXTS, PROMPTS).attention is None
    llm.model.config.sliding_window = PROMPTS + 5
    assert llm.layout(TEXTS, PROMPTS).attention is not None


@pytest.mark.parametrize("make", [opt, llama, lambda: opt(**OPTS["350m"])])
def test_embed_is_what_the_first_block_sees(make):
    llm, model = make()
    ids = torch.randint(4, 300, (2, 7))
    seen = []
    layers = next(m for m in llm.model.modules() if isinstance(m, torch.nn.ModuleList))
    layers[0].register_forward_pre_hook(lambda _, a, k: seen.append(a[0]), with_kwargs=True)
    llm.model(input_ids=ids)
    decoder = model.get_decoder()
    places = decoder.embed_positions(None, 0, torch.arange(7)[None]) if hasattr(decoder, "embed_positions") else 0
    assert torch.allclose(llm.embed(ids) + places, seen[0], atol=1e-6)
    assert llm.embed(ids).shape[-1] == llm.embedding_size
    assert torch.allclose(llm.model(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    assert torch.allclose(llm.model(inputs_embeds=llm.embed(ids)).logits, model(input_ids=ids).logits, atol=1e-5)


def test_opt_350m_is_saved_without_projections(tmp_path):
    from transformers import OPTForCausalLM

    llm, _ = opt(**OPTS["350m"])
    llm.model.save_pretrained(tmp_path)
    again, report = OPTForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert again.get_decoder().project_in is None
    ids = torch.randint(4, 300, (2, 7))
    assert torch.equal(again(input_ids=ids).logits, llm.model(input_ids=ids).logits)


def test_recomputed_activations_change_nothing_but_memory():
    llm, model = llama()
    llm.checkpoint_activations()
    prompts = soft_prompts_for(model)
    assert_same_loss(llm, lambda p: plain_decoder_loss(model, p, TEXTS), prompts, TEXTS, 1e-5)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
    recomputed, kept = sum(kept), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        llama()[0].loss(prompts, llm.layout(TEXTS, PROMPTS))
    assert recomputed < sum(kept) / 2


@pytest.mark.parametrize("make", [opt, llama, lambda: opt(**OPTS["350m"])])
def test_the_llm_is_frozen_and_untouched(make):
    llm, model = make()
    before = {name: p.clone() for name, p in llm.model.state_dict().items()}
    prompts = soft_prompts_for(model)
    llm.loss(prompts, llm.layout(TEXTS, PROMPTS)).backward()
    assert prompts.grad is not None and prompts.grad.abs().sum() > 0
    assert not any(p.requires_grad or p.grad is not None for p in llm.model.parameters())
    assert not any(m.training for m in llm.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in llm.model.state_dict().items())


@pytest.mark.parametrize("make", [opt, llama])
@pytest.mark.parametrize("prompt", ["", "question: what colour is it? answer:"])
def test_generate_equals_blip2(make, prompt):
    from blip2 import blip2_texts

    llm, _ = make()
    options = GenerateOptions(num_beams=3, max_new_tokens=12, min_new_tokens=2, length_penalty=-1.0)
    mine, theirs = blip2_texts(llm, prompt, options)
    assert mine == theirs
    assert len(set(mine)) > 1, "the images must matter for this test to mean anything"


def test_generation_ends_at_the_line_break():
    llm, _ = llama()
    options = GenerateOptions(num_beams=1, max_new_tokens=20, min_new_tokens=3)

    def say_the_end(module, inputs, logits):
        logits[..., llm.text.end] = 1e4

    llm.model.lm_head.register_forward_hook(say_the_end)
    out = llm.model.generate(inputs_embeds=torch.ones(1, 3, 32), generation_config=llm.generation_arguments(options))
    assert out.shape[1] == 4 and out[0, -1] == llm.text.end
    assert llm.generation_settings() == {"bos_token_id": 1, "eos_token_id": [13, 2], "pad_token_id": 2}


def test_texts_without_prompt_label_the_start():
    text = opt()[0].text
    encoded = text(Caption("a red dog"), 32, random.Random(0))
    assert encoded.context == () and encoded.target[0] == 2 and encoded.target[-1] == 202
    assert text.tokenizer.decode(encoded.target) == "</s>a red dog\n"
    assert text(Caption("a red dog"), 3, random.Random(0)).target == encoded.target[:3]
    assert pickle.loads(pickle.dumps(text))(Caption("a red dog"), 32, random.Random(0)) == encoded


def test_texts_with_prompt_label_the_answer_alone():
    text = opt()[0].text
    encoded = text(Caption("blue", prompt="what colour? "), 32, random.Random(0))
    assert text.tokenizer.decode(encoded.context) == "</s>what colour?"
    assert text.tokenizer.decode(encoded.target) == " blue\n"
    assert encoded.context == text.prompt_ids("what colour?")
    short = text(Caption("blue", prompt="what colour?"), 4, random.Random(0))
    assert len(short.context) == 3 and short.target == encoded.target[:1]


def test_a_tokenizer_without_start_has_none():
    text = DecoderOnlyLLM(random_model(llama_config()), byte_level(None), family()).text
    assert text.start == () and text.prompt_ids("") == ()
    assert text.tokenizer.decode(text(Caption("a red dog"), 32, random.Random(0)).target) == "a red dog\n"

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
    random_model,
    soft_prompts_for,
)
from llm_opt.adapter import OPT
from tiny_tokenizers import byte_level, metaspace

from vpgtrans_core.data.sample import Caption
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.blocks import blocks
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.testing.plain import plain_loss

OPT_350M = {"do_layer_norm_before": False, "word_embed_proj_dim": 16}


def opt(dtype=torch.float32, share=True, **changes) -> tuple[OPT, torch.nn.Module]:
    """The adapter and an untouched copy of its model."""
    model = random_model(opt_config(**changes), dtype)
    return OPT(copy.deepcopy(model), byte_level(), family("opt"), share), model


def llama(dtype=torch.float32, share=True, **changes) -> tuple[DecoderOnlyLLM, torch.nn.Module]:
    model = random_model(llama_config(**changes), dtype)
    return DecoderOnlyLLM(copy.deepcopy(model), metaspace(), family("llama"), share), model


def test_eager_attention_gets_a_float_mask():
    llm, model = llama()
    llm.model.set_attn_implementation("eager")
    llm.freeze()
    assert not llm.bool_masks
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-5)


def test_a_wrong_mask_would_be_seen(monkeypatch):
    """Parity can fail: captions that see each other give another loss."""
    llm, model = llama()
    causal = torch.ones(1, 1, 512, 512, dtype=torch.bool).tril()
    monkeypatch.setattr(
        "vpgtrans_core.llm.rows.DecoderRows.mask", lambda rows: causal[..., : rows.ids.shape[1], : rows.ids.shape[1]]
    )
    with pytest.raises(AssertionError):
        assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model), TEXTS, 1e-3)


@pytest.mark.parametrize("make", [opt, llama])
def test_half_precision_stays_near(make):
    llm, model = make(torch.bfloat16)
    prompts = soft_prompts_for(model)
    loss = llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
    assert loss.dtype == torch.float32
    expected = plain_loss(model.float(), prompts.detach().float(), TEXTS)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-2)


@pytest.mark.parametrize("make", [opt, llama])
def test_compile_compiles_each_block(make):
    llm, _ = make()
    llm.compile()
    compiled = [name for name, module in llm.model.named_modules() if module._compiled_call_impl is not None]
    assert [name.split(".")[-2] for name in compiled] == ["layers"] * llm.model.config.num_hidden_layers


def test_generation_runs_blocks_as_they_are():
    """A text that grows by a word would be compiled anew with each."""
    from torch._dynamo.testing import CompileCounter

    from vpgtrans_core.vlm.model import VLModel

    llm, model = llama()
    counter = CompileCounter()
    for block in blocks(llm.model):
        block.compile(backend=counter)
    vpg = torch.nn.Identity()
    vpg.num_prompts, vpg.output_size = PROMPTS, 6
    vl = VLModel(vpg, torch.nn.Linear(6, model.config.hidden_size), llm)
    assert len(vl.generate(torch.randn(1, PROMPTS, 6), "outputs")) == 1
    assert counter.frame_count == 0
    llm.loss(soft_prompts_for(model), llm.layout(TEXTS, PROMPTS))
    assert counter.frame_count > 0
    torch._dynamo.reset()


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


def test_opt_350m_is_saved_without_projections(tmp_path):
    from transformers import OPTForCausalLM

    llm, _ = opt(**OPT_350M)
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
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), prompts, TEXTS, 1e-5)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        llm.loss(prompts, llm.layout(TEXTS, PROMPTS))
    recomputed, kept = sum(kept), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        llama()[0].loss(prompts, llm.layout(TEXTS, PROMPTS))
    assert recomputed < sum(kept) / 2


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

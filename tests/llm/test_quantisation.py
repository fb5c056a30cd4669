"""Frozen LLMs in 8 and 4 bits (bitsandbytes), on the CPU: against the same with its quantised weights made plain."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from conftest import PROMPTS, TEXTS, family, llama_config, loss_and_gradient, opt_config, random_model, soft_prompts_for
from llm_opt.adapter import OPT
from llm_t5.adapter import T5
from safetensors.torch import load_file, save_file
from test_t5 import TEXTS as T5_TEXTS
from test_t5 import t5 as tiny_t5
from tiny_tokenizers import byte_level, metaspace, unigram
from transformers import AutoConfig

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.decoder import DecoderOnlyLLM

KINDS = ("8bit", "4bit")
TOLERANCE = {"8bit": 3e-2, "4bit": 1e-5}
"""Relative, of loss and gradient: 8 bits round the activations too, 4 bits compute with the weights made plain."""
needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="not installed")


def opt():
    return OPT, random_model(opt_config(word_embed_proj_dim=16)), byte_level(), TEXTS


def llama():
    return DecoderOnlyLLM, random_model(llama_config()), metaspace(), TEXTS


def t5():
    return T5, tiny_t5()[1], unigram(), T5_TEXTS


def qwen3():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 344}
    return AnyCausalLM, random_model(AutoConfig.for_model("qwen3", **sizes)), metaspace(), TEXTS


@pytest.fixture(params=[opt, llama, t5, qwen3], ids=lambda made: made.__name__)
def saved(request, tmp_path):
    """A family's folder, its adapter, and texts for it."""
    adapter, model, tokenizer, texts = request.param()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)  # what rounding does to weights of this size is not drowned in chaos
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return adapter, tmp_path, texts


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_the_quantised_weights(saved, kind):
    adapter, folder, texts = saved
    llm, again = (adapter.load(folder, family=family("x"), quantization=kind) for _ in range(2))
    plain = adapter(again.model.dequantize().float(), again.tokenizer, family("x"))
    assert quantised_layers(llm.model) and not quantised_layers(plain.model)
    prompts = soft_prompts_for(plain.model)
    rows = plain.layout(texts, PROMPTS)
    expected, expected_gradient = loss_and_gradient(lambda p: plain.loss(p, rows), prompts)
    loss, gradient = loss_and_gradient(lambda p: llm.loss(p, llm.layout(texts, PROMPTS)), prompts)
    assert float(loss) == pytest.approx(float(expected), rel=TOLERANCE[kind])
    error = float((gradient - expected_gradient).norm() / expected_gradient.norm())
    assert error < (5 if kind == "8bit" else 1) * TOLERANCE[kind]
    assert not any(parameter.requires_grad for parameter in llm.model.parameters())
    said = llm.generate(prompts.detach(), "", GenerateOptions(num_beams=2, max_new_tokens=4, min_new_tokens=1))
    assert len(said) == len(prompts)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_after_a_forward_without_them(saved, kind):
    """A held-out loss comes before training; bitsandbytes must not turn to kernels for inference alone."""
    adapter, folder, texts = saved
    llm = adapter.load(folder, family=family("x"), quantization=kind)
    prompts = soft_prompts_for(llm.model)
    rows = llm.layout(texts, PROMPTS)
    before = loss_and_gradient(lambda p: llm.loss(p, rows), prompts)
    with torch.no_grad():
        llm.loss(prompts, rows)
    after = loss_and_gradient(lambda p: llm.loss(p, rows), prompts)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1]) and after[1].norm() > 0


@needs_bitsandbytes
def test_what_must_stay_precise_is_not_quantised(saved):
    adapter, folder, _ = saved
    llm = adapter.load(folder, family=family("x"), quantization="4bit")
    precise = {"lm_head", "project_in", "project_out", *(adapter.keep_precise or ())}
    assert not {name.rpartition(".")[2] for name in quantised_layers(llm.model)} & precise
    assert type(llm.model.get_output_embeddings()) is torch.nn.Linear
    assert llm.model.get_input_embeddings().weight.dtype == torch.float32


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_finite_do_not_hide_in_few_bits(tmp_path, kind):
    random_model(llama_config()).save_pretrained(tmp_path)
    metaspace().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 3] = float("inf")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"(?s)NaN or infinity.*up_proj"):
        DecoderOnlyLLM.load(tmp_path, family=family("llama"), quantization=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_package_the_error_says_so(tmp_path, kind, monkeypatch):
    random_model(llama_config()).save_pretrained(tmp_path)
    metaspace().save_pretrained(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ModelError, match="needs the bitsandbytes package") as caught:
        DecoderOnlyLLM.load(tmp_path, family=family("llama"), quantization=kind)
    assert "vpgt[quantization]" in caught.value.hint


def test_a_package_that_does_not_load_is_said(tmp_path, monkeypatch):
    random_model(llama_config()).save_pretrained(tmp_path)
    metaspace().save_pretrained(tmp_path)
    found, imported = importlib.util.find_spec, importlib.import_module

    def broken(name, *more):
        if name == "bitsandbytes":
            raise OSError("no kernels for this machine")
        return imported(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "bitsandbytes" else found(name))
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModelError, match="no kernels for this machine") as caught:
        DecoderOnlyLLM.load(tmp_path, family=family("llama"), quantization="8bit")
    assert "--quantization" in caught.value.hint


def quantised_layers(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__name__ in ("Linear8bitLt", "Linear4bit")]

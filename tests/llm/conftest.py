"""Tiny random models, and the comparison of an adapter's loss with a plain one."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.testing.llm_subject import PROMPTS, TEXTS


def family(name: str = "test") -> LLMFamily:
    bos = "after" if name == "opt" else "first"
    return LLMFamily(name=name, model_types=(name,), adapter="vpgtrans_core.llm.decoder:DecoderOnlyLLM", bos=bos)


def random_model(config, dtype=torch.float32, auto=AutoModelForCausalLM, seed=0):
    """A model with weights large enough that position, mask and scale matter."""
    torch.manual_seed(seed)
    model = auto.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.12 if "embed" in name or "shared" in name else 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    return model


def opt_config(**changes) -> OPTConfig:
    sizes = dict(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=328)
    sizes |= dict(max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=1, bos_token_id=2, eos_token_id=2)
    return OPTConfig(**(sizes | changes))


def llama_config(**changes) -> LlamaConfig:
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=344)
    return LlamaConfig(**(sizes | changes))


def soft_prompts_for(model, images: int = len(TEXTS), prompts: int = PROMPTS, scale: float = 0.3) -> torch.Tensor:
    torch.manual_seed(1)
    size = model.config.hidden_size
    return (torch.randn(images, prompts, size, dtype=model.dtype) * scale).requires_grad_()


def loss_and_gradient(function, soft_prompts):
    loss = function(soft_prompts)
    (gradient,) = torch.autograd.grad(loss, soft_prompts)
    return loss.detach(), gradient


def assert_same_loss(llm, reference, soft_prompts, texts, tolerance: float, rows=None) -> None:
    """The adapter's loss and its gradient equal the plain ones, relative to their size."""
    rows = rows or llm.layout(texts, soft_prompts.shape[1]).to("cpu")
    loss, gradient = loss_and_gradient(lambda p: llm.loss(p, rows), soft_prompts)
    expected, expected_gradient = loss_and_gradient(lambda p: reference(p), soft_prompts)
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    error = (gradient - expected_gradient).norm() / expected_gradient.norm()
    assert float(error) < tolerance


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

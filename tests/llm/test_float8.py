"""A frozen LLM whose products are in float8: on a CPU the same numbers are computed without the kernel."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import PROMPTS, TEXTS, family, llama_config, loss_and_gradient, opt_config, random_model, soft_prompts_for
from llm_opt.adapter import OPT
from test_t5 import TEXTS as T5_TEXTS
from test_t5 import t5 as tiny_t5
from tiny_tokenizers import byte_level, metaspace
from torch import nn

from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.float8 import KIND, Float8Linear, kernel_product, product, rounded, use_float8, why_not_float8
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.settings import Settings, build

CPU = torch.device("cpu")


def test_rows_are_rounded_to_three_bits() -> None:
    values = (
        torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1, 3, 1e5, 0])[:, None]
    )
    made, scales = rounded(values)
    again = made.float() * scales[:, None]
    assert made.dtype == KIND and float(made.float().abs().amax(1)[:4].min()) == torch.finfo(KIND).max
    largest = values.abs().amax(1, keepdim=True)
    assert bool(((again - values).abs() <= values.abs() / 16 + largest / 448 * 2**-9).all()) and not again[4].any()


def test_the_kernel_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own product of scaled float8 matrices, as GPUs have it; its CPU version knows the same operands."""
    torch.manual_seed(0)
    inputs, (weight, scales) = torch.randn(7, 32), rounded(torch.randn(48, 32))
    wanted = [product(inputs, weight, scales), product(torch.randn(7, 48), weight.T, torch.ones(32))]
    torch.manual_seed(0)
    inputs, (weight, scales) = torch.randn(7, 32), rounded(torch.randn(48, 32))
    for number, given in enumerate([(inputs, weight, scales), (torch.randn(7, 48), weight.T, torch.ones(32))]):
        try:
            made = kernel_product(*given)
        except (RuntimeError, NotImplementedError) as error:
            pytest.skip(f"torch {torch.__version__} has no such product on a CPU: {error}")
        torch.testing.assert_close(made, wanted[number], rtol=1e-2, atol=1e-2 * float(wanted[number].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_the_product_of_what_was_rounded(dtype: torch.dtype) -> None:
    """Forwards, and backwards with the weight's scales in the gradient that is rounded."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 48).to(dtype).requires_grad_(False)
    inputs = torch.randn(2, 7, 32, dtype=dtype, requires_grad=True)
    slope = torch.randn(2, 7, 48, dtype=dtype)
    ours = Float8Linear(layer, CPU)
    made = ours(inputs)
    (gradient,) = torch.autograd.grad(made, inputs, slope)

    def plain(rows: torch.Tensor) -> torch.Tensor:
        values, scales = rounded(rows)
        return values.double() * scales[:, None].double()

    weight = plain(layer.weight)
    wanted = plain(inputs.detach().flatten(0, 1)) @ weight.T + layer.bias.double()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(made.flatten(0, 1).double(), wanted, rtol=tolerance, atol=tolerance)
    scales = rounded(layer.weight)[1]
    values = weight / scales[:, None].double()
    wanted = plain(slope.flatten(0, 1) * scales) @ values
    torch.testing.assert_close(gradient.flatten(0, 1).double(), wanted, rtol=tolerance, atol=tolerance)
    assert made.dtype == gradient.dtype == dtype and not ours.values.requires_grad


def opt():
    return OPT(random_model(opt_config()), byte_level(), family("opt")), TEXTS


def llama():
    return DecoderOnlyLLM(random_model(llama_config()), metaspace(), family("llama")), TEXTS


def t5():
    return tiny_t5()[0], T5_TEXTS


@pytest.mark.parametrize("make", [opt, llama, t5], ids=lambda made: made.__name__)
def test_losses_and_gradients_are_near(make) -> None:
    """By as much as docs/checkpoints.md says. Rounding switches ReLUs, of which OPT has some."""
    plain, texts = make()
    with torch.no_grad():
        for parameter in plain.model.parameters():
            parameter.mul_(0.5)  # what rounding does to weights of this size is not drowned in chaos
    llm = type(plain)(copy.deepcopy(plain.model), plain.tokenizer, plain.family)
    use_float8(llm.model, CPU)
    layers = [module for module in llm.model.modules() if isinstance(module, Float8Linear)]
    kept = [module for module in llm.model.modules() if type(module) is nn.Linear]
    assert len(layers) >= 12 and kept == [llm.model.get_output_embeddings()]
    prompts = soft_prompts_for(plain.model, len(texts))
    rows = plain.layout(texts, PROMPTS)
    loss, gradient = loss_and_gradient(lambda p: plain.loss(p, rows), prompts)
    near, other = loss_and_gradient(lambda p: llm.loss(p, rows), prompts)
    assert near != loss and float(near) == pytest.approx(float(loss), rel=0.01)
    assert float((other - gradient).norm() / gradient.norm()) < (0.25 if make is opt else 0.1)
    said = llm.generate(prompts.detach(), "", GenerateOptions(num_beams=2, max_new_tokens=4, min_new_tokens=1))
    assert len(said) == len(prompts) and not any(p.requires_grad for p in llm.model.parameters())


def test_the_gradient_is_that_of_the_loss() -> None:
    """Finite differences know nothing of rounding; so the two roundings alone, backwards, against autograd of the layer
    whose weight was rounded."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    ours = Float8Linear(layer, CPU)
    inputs, slope = torch.randn(9, 64, requires_grad=True), torch.randn(9, 64)
    (gradient,) = torch.autograd.grad(ours(inputs), inputs, slope)
    weight = ours.values.float() * ours.scales[:, None]
    wanted = slope @ weight
    assert 0 < float((gradient - wanted).norm() / wanted.norm()) < 0.04


def test_a_model_without_fitting_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no linear layers in blocks"):
        use_float8(nn.Sequential(nn.Linear(32, 32)), CPU)
    model = random_model(llama_config(hidden_size=24, intermediate_size=40))
    with pytest.raises(ModelError, match="multiples of 16"):
        use_float8(model, CPU)


def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the run is on cpu" in str(why_not_float8(CPU))
    with pytest.raises(ConfigError, match="float8 needs an NVIDIA GPU"):
        choose_machine(Settings(quantization="float8"), "bfloat16") if not torch.cuda.is_available() else build(
            {"quantization": "float8", "device": "cpu"}
        )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    assert "not A100" in str(why_not_float8(torch.device("cuda", 0)))

    def no_kernel(*given: object, **more: object) -> None:
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    monkeypatch.setattr("vpgtrans_core.llm.float8.product", no_kernel)
    monkeypatch.setattr(torch, "ones", lambda *size, **more: torch.zeros(*size))
    assert "no kernel image" in str(why_not_float8(torch.device("cuda", 0)))


def test_what_does_not_go_together_is_told() -> None:
    with pytest.raises(ConfigError) as error:
        build({"quantization": "float8", "device": "cpu", "place": "auto", "shard": True, "lora": 4, "then": None})
    told = str(error.value)
    assert "on a CPU there is 8bit or 4bit" in told and "give one of place and quantization" in told
    assert "give one of shard and quantization" in told
    assert build({"quantization": "float8", "compile": True}).compile

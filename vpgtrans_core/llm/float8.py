"""The products of a frozen LLM's blocks in float8: an option on GPUs that have such products, from the H100 on.

A frozen layer needs two products: its output, and backwards the gradient of its input. Its weight is rounded once, with
one scale a row, and kept in that form alone: one byte a weight. What is multiplied with it is rounded anew each time,
with one scale a position. Backwards the weight's scales stand on the dimension that is summed over, so that they are
multiplied into the gradient before it is rounded; the same numbers serve in both directions.

torchao's float8 training computes the gradients of weights, too, also of frozen ones, and rounds each weight at every
pass; its float8 inference has no backward pass. Hence these lines.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.blocks import blocks

KIND = torch.float8_e4m3fn
"""Three bits of mantissa, up to 448."""
MULTIPLE = 16
"""The sizes of a matrix must be multiples of it, as the kernels want."""
HOPPER = (9, 0)
"""The compute capability of the H100, the first GPU for which this is meant."""


def why_not_float8(device: torch.device) -> str | None:
    """Why a device cannot compute so; None if it can."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"float8 needs an NVIDIA GPU from the H100 on, and the run is on {device}"
    if torch.cuda.get_device_capability(device) < HOPPER:
        return f"float8 needs an H100 or a later GPU, not {torch.cuda.get_device_name(device)}"
    try:
        ones = torch.ones(MULTIPLE, MULTIPLE, device=device, dtype=torch.bfloat16)
        product(ones, *rounded(ones))
    except RuntimeError as error:
        return f"torch {torch.__version__} has no float8 products here: {str(error).splitlines()[0]}"
    return None


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[N, K]`` in float8, and their scales ``[N]`` in fp32: ``values = rounded * scale``."""
    values = values.float()
    scales = (values.abs().amax(1) / torch.finfo(KIND).max).clamp_min(torch.finfo(torch.float32).tiny)
    largest = torch.finfo(KIND).max
    return (values / scales[:, None]).clamp(-largest, largest).to(KIND), scales


def product(inputs: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """``inputs [M, K] @ (weight [N, K] * scales [N, 1]).T``, in the precision of the inputs.

    Args:
        inputs: in any precision; rounded here.
        weight: in float8; in memory row by row, or column by column.
        scales: in fp32.
    """
    if inputs.device.type != "cpu":
        return kernel_product(inputs, weight, scales)
    values, own = rounded(inputs)  # the same numbers without the kernel, for tests
    return ((values.float() @ weight.float().T) * own[:, None] * scales).to(inputs.dtype)


def kernel_product(inputs: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """`product` by torch's kernel, which sums in fp32 and gives bfloat16."""
    values, own = rounded(inputs)
    rows = weight if weight.is_contiguous() else weight.contiguous()
    made = torch._scaled_mm(
        values, rows.T, scale_a=own[:, None], scale_b=scales[None], out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return made.to(inputs.dtype)


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scales)
        return product(inputs, weight, scales)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, scales = ctx.saved_tensors
        (slope,) = slopes
        ones = torch.ones(weight.shape[1], device=weight.device)
        made = product(slope * scales, weight.T, ones)
        return made.to(slope.dtype), None, None


class Float8Linear(nn.Module):
    """A frozen linear layer ``[*, K] -> [*, N]`` whose products are in float8.

    Args:
        layer: whose weight ``[N, K]`` is rounded, and whose bias is kept.
        device: where the rounded weight goes.

    Attributes:
        values: ``[N, K]`` in float8.
        scales: ``[N]`` in fp32.
    """

    weight = None
    """There is none that could be read: T5 casts to the precision of a weight that it finds here."""

    def __init__(self, layer: nn.Linear, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        values, scales = rounded(layer.weight.detach().to(device))
        self.values = nn.Parameter(values, requires_grad=False)
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1, self.in_features)
        made: Tensor = _FrozenProduct.apply(flat, self.values, self.scales)  # type: ignore[no-untyped-call]
        made = made if self.bias is None else made + self.bias.to(made.dtype)
        return made.view(*inputs.shape[:-1], self.out_features)


def use_float8(model: nn.Module, device: torch.device) -> None:
    """Replace the linear layers of a model's blocks, one after the other, and move the model to `device`: there it
    never needs more memory than it has in the end. Word embeddings, norms and the head stay as they are.

    Raises:
        ModelError: the model does not show its blocks, or none of their layers has the sizes that float8 wants.
    """
    count = 0
    for block in blocks(model):
        for name, layer in list(block.named_modules()):
            if type(layer) is nn.Linear and not any(size % MULTIPLE for size in layer.weight.shape):
                block.set_submodule(name, Float8Linear(layer, device))
                count += 1
    if not count:
        raise ModelError(
            f"{type(model).__name__} has no linear layers in blocks, of sizes that are multiples of {MULTIPLE}, which "
            "could compute in float8",
            "leave --quantization out",
        )
    model.to(device)

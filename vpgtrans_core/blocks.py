"""The blocks of a transformers model, of which a deep one has many alike: what is compiled and checkpointed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers.modeling_layers import GradientCheckpointingLayer

KINDS = 32
"""Compiled functions that a model's blocks may need; torch gives up at eight, which T5 alone has (first and later
blocks, of encoder and decoder, with gradients and without)."""


def blocks(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The model's blocks, as transformers marks them for checkpointing."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_blocks(model: nn.Module) -> None:
    """Recompute each block's activations in the backward pass instead of keeping them.

    transformers' own switch works in training mode only, which would turn dropout on."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(model: nn.Module) -> None:
    """``torch.compile`` each block; blocks alike share one compiled function, which is ready in seconds where a whole
    model takes minutes. A block that cannot be compiled here (no C compiler, say) runs as it is, with torch's warning.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    torch._dynamo.config.suppress_errors = True
    alike: list[nn.Module] = [*blocks(model)]
    for block in alike or [model]:
        block.compile(dynamic=True)  # rows of other lengths need no function of their own

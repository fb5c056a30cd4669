"""The blocks of a transformers model, of which a deep one has many alike: what is compiled and checkpointed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from vpgtrans_core.errors import ModelError, VpgtError

if TYPE_CHECKING:
    import torch
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

    transformers' own switch works in training mode only, which would turn dropout on.

    Raises:
        ModelError: the model marks no blocks.
    """
    from torch.utils.checkpoint import checkpoint

    found = blocks(model)
    if not found:
        raise ModelError(
            f"the blocks of {type(model).__name__} cannot be found, so their activations cannot be recomputed: none of "
            "its modules is a GradientCheckpointingLayer of transformers",
            "leave --checkpoint-activations out, or derive the class of its blocks from "
            "transformers.modeling_layers.GradientCheckpointingLayer",
        )
    for block in found:
        # To its end where its weights are in host memory: they are put back there after each layer.
        early = not any(p.is_meta for p in block.parameters())
        whole = partial(checkpoint, block.forward, use_reentrant=False, early_stop=early)
        block.forward = whole  # type: ignore[method-assign]


def compile_blocks(model: nn.Module, whole: Sequence[nn.Module]) -> None:
    """``torch.compile`` each block; blocks alike share one compiled function, which is ready in seconds where a whole
    model takes minutes. Of a model without blocks that transformers marks, compile the parts in `whole`."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KINDS)
    found: Sequence[nn.Module] = blocks(model)
    for part in found or whole:
        part.compile(dynamic=True)  # rows of other lengths need no function of their own


@contextlib.contextmanager
def compiler_errors_are_told() -> Iterator[None]:
    """Say in our words what torch's compiler raises when a compiled block is first called.

    Raises:
        VpgtError: the LLM cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        cause = str(error).strip().partition("\n")[0]
        raise VpgtError(f"the LLM cannot be compiled: {cause}", "--no-compile runs it uncompiled") from error


def why_not_compile(device: torch.device) -> str | None:
    """Say why nothing can be compiled for a device (no C compiler, no Triton), or None."""
    import torch

    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # compilers fail in many ways
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None

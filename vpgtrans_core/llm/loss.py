"""Cross-entropy at label positions through a frozen head, in chunks: a batch's logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_LOGITS = 1 << 25
"""Most logits computed at once: 128 MiB of fp32."""

Head = Callable[[Tensor], Tensor]
"""Hidden states ``[N, D]`` to logits ``[N, V]``, with whatever the model does to them (scale, softcap)."""


def label_loss(
    hidden: Tensor, targets: Tensor, head: Head, vocab_size: int, chunk_logits: int = CHUNK_LOGITS
) -> Tensor:
    """Sum of the cross-entropies of N labels, a scalar in fp32 (fp64 for fp64 input).

    The gradient with respect to `hidden` is computed chunk by chunk together with the loss; `head` gets none.

    Args:
        hidden: ``[N, D]`` outputs at the positions that predict labels.
        targets: ``[N]`` token ids.
        head: the frozen head.
        vocab_size: V, which decides how many rows make a chunk.
        chunk_logits: most logits that exist at once.
    """
    rows = max(1, chunk_logits // vocab_size)
    return _LabelLoss.apply(hidden, targets, head, rows)


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head, rows: int) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            with torch.set_grad_enabled(wants_gradient):
                states = hidden[part].detach().requires_grad_(wants_gradient)
                logits = head(states).to(total.dtype)
                loss = functional.cross_entropy(logits, targets[part], reduction="sum")
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(loss, states)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None, None
        scaled = gradient.to(grad_outputs[0].dtype) * grad_outputs[0]  # a loss scale need not fit fp16
        return scaled.to(gradient.dtype), None, None, None

"""Cross-entropy at label positions through a frozen head, in chunks: a batch's logits never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 24
"""Most logits computed at once on a CPU: 64 MiB of fp32."""
DEVICE_CHUNK_LOGITS = 1 << 25
"""The same on any other device, whose matrix products want more rows at once."""
NO_LABEL = -1
"""Stands in a table of labels where a position predicts fewer than the others."""

Head = Callable[[Tensor], Tensor]
"""Hidden states ``[N, D]`` to logits ``[N, V]``, with whatever the model does to them (scale, softcap)."""


def label_loss(hidden: Tensor, targets: Tensor, head: Head, vocab_size: int, chunk_logits: int | None = None) -> Tensor:
    """Sum of the cross-entropies of all labels, a scalar in fp32 (fp64 for fp64 input).

    A position may predict several labels (captions that begin alike); its logits are computed once. The gradient with
    respect to `hidden` is computed chunk by chunk together with the loss; `head` gets none.

    Args:
        hidden: ``[P, D]`` outputs at the positions that predict labels.
        targets: ``[P, K]`` the token ids that each position predicts, `NO_LABEL` where it predicts fewer than K.
        head: the frozen head.
        vocab_size: V, which decides how many rows make a chunk.
        chunk_logits: most logits that exist at once; default by the device.
    """
    if chunk_logits is None:
        chunk_logits = CHUNK_LOGITS if hidden.device.type == "cpu" else DEVICE_CHUNK_LOGITS
    chunks = -(-len(hidden) * vocab_size // chunk_logits)  # of equal size: each reads the whole head
    return _LabelLoss.apply(hidden, targets, head, -(-len(hidden) // max(1, chunks)))


class _LabelLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head, rows: int) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for start in range(0, len(hidden), max(1, rows)):
            part = slice(start, start + rows)
            with torch.set_grad_enabled(wants_gradient):
                states = hidden[part].detach().requires_grad_(wants_gradient)
                logits = head(states)  # the head may be on another device, and so is then its loss
            loss, slope, counts = _cross_entropy(logits.detach(), targets[part].to(logits.device), total.dtype)
            total += loss.to(total.device)
            if gradient is not None:
                (pulled,) = torch.autograd.grad(logits, states, slope.to(logits.dtype))
                gradient[part] = pulled * counts.to(pulled.device, pulled.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None, None
        scaled = gradient.to(grad_outputs[0].dtype) * grad_outputs[0]  # a loss scale need not fit fp16
        return scaled.to(gradient.dtype), None, None, None


def _cross_entropy(logits: Tensor, targets: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of logits ``[N, V]`` with labels ``[N, K]``, its slope, and how many labels each row has.

    The slope ``[N, V]`` is that of a row's *mean* loss, ``softmax - one-hot``: multiplied with the count ``[N, 1]``
    after the head, it costs no further pass over the logits. Nor does the loss: a row's log-sum-exp follows from its
    largest logit and that one's probability.
    """
    labelled = (targets != NO_LABEL).to(dtype)
    counts = labelled.sum(1, keepdim=True)
    places = targets.clamp_min(0)
    largest, place = logits.max(-1, keepdim=True)
    slope = torch.softmax(logits, -1, dtype=dtype)
    log_sums = largest.to(dtype) - slope.gather(1, place).log()  # [N, 1]
    loss = ((log_sums - logits.gather(1, places).to(dtype)) * labelled).sum()
    return loss, slope.scatter_add_(1, places, -labelled / counts.clamp_min(1)), counts

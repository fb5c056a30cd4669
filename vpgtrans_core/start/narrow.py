"""Fewer outputs of a VPG, for a folder that has no room for all of them.

Where the projector is the last layer of an MLP, the VPG's output is the MLP's hidden layer, and some folders bind its
width to the LLM's. For an LLM that is narrower than the source's some hidden units have to go. Those stay that tell
most of what the source's soft prompts need, and the source's projector is fitted to them again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpgtrans_core.start.projector import Linear, soft_prompts
from vpgtrans_core.start.words import regress

RIDGE = 1e-6
"""Strength of the regression, as in `regress`."""


@dataclass(frozen=True)
class Narrowed:
    """Which outputs stay, ``[K]``; the source's projector from these, if there is one; and the share of its soft
    prompts' variance that is lost."""

    units: Tensor
    projector: Linear | None
    lost: float


@torch.no_grad()
def narrow(outputs: Tensor, projector: Linear | None, width: int) -> Narrowed:
    """Choose `width` entries of the VPG's output.

    Each choice is the unit with most of its variance not yet told by those chosen before (a pivoted Cholesky
    decomposition), weighted by how much the source's projector reads of it.

    Args:
        outputs: the VPG's output of some images, ``[n, Q, D]``.
        projector: the source's, ``[D_s, D]`` and ``[D_s]``; None where there is none.
        width: K, less than D.
    """
    flat = outputs.flatten(0, 1).double().cpu()
    weight = projector[0].double().norm(dim=0) if projector else torch.ones(flat.shape[1], dtype=torch.float64)
    centred = (flat - flat.mean(0)) * weight
    units = _pivots(centred.T @ centred, width)
    if projector is None:
        return Narrowed(units, None, 0.0)
    wanted = soft_prompts(flat.float(), *projector)
    fitted = regress(flat[:, units].float(), wanted, RIDGE)
    missed = wanted - soft_prompts(flat[:, units].float(), *fitted)
    lost = float(missed.var(0).sum() / wanted.var(0).sum().clamp_min(1e-30))
    return Narrowed(units, fitted, lost)


def _pivots(gram: Tensor, count: int) -> Tensor:
    """The first `count` pivots of a positive semi-definite ``[D, D]``, in ascending order."""
    left = gram.diagonal().clone()
    rows = torch.zeros(count, len(gram), dtype=gram.dtype)
    chosen = torch.zeros(len(gram), dtype=torch.bool)
    for n in range(count):
        pivot = int(left.masked_fill(chosen, -torch.inf).argmax())
        chosen[pivot] = True
        if left[pivot] > 0:
            rows[n] = (gram[pivot] - rows[:n, pivot] @ rows[:n]) / left[pivot].sqrt()
            left = left - rows[n].square()
    return chosen.nonzero().flatten()

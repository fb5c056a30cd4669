"""Which text belongs to which image: the loss of the contrast, and how often the right one is found."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

AMONG_THE_FIRST = (1, 5)
"""Recall is measured at these numbers of candidates."""


def alike(ids: Tensor) -> Tensor:
    """Which texts ``[B, T]`` are the same, ``[B, B]``: an image with the same caption is no wrong answer."""
    return (ids[:, None] == ids[None]).all(-1)


def contrast_loss(logits: Tensor, same: Tensor, smoothing: float = 0.0) -> Tensor:
    """BLIP-2's image-text contrast: the mean cross-entropy of the right texts for an image, and of the right images for
    a text.

    Args:
        logits: similarities of images and texts, ``[B, B]``.
        same: which texts are right for which image, ``[B, B]``; several share the probability.
        smoothing: share of the probability that all texts get.
    """
    target = same.to(logits.dtype)
    target = target / target.sum(1, keepdim=True)
    losses = [F.cross_entropy(each, target, label_smoothing=smoothing) for each in (logits, logits.T)]
    return (losses[0] + losses[1]) / 2


def recalls(logits: Tensor, same: Tensor) -> dict[str, float]:
    """How often a right text is among the first for an image, and a right image for a text.

    Args:
        logits, same: as for `contrast_loss`, of all images that are compared.

    Returns:
        shares by ``text_recall_at_N`` and ``image_recall_at_N``.
    """
    shares = {}
    for name, scores, right in (("text", logits, same), ("image", logits.T, same.T)):
        for count in AMONG_THE_FIRST:
            first = scores.topk(min(count, scores.shape[1]), dim=1).indices
            shares[f"{name}_recall_at_{count}"] = float(torch.gather(right, 1, first).any(1).float().mean())
    return shares

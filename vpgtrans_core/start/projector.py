"""Weights of the projector: merged with a word converter, random, or spread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vpgtrans_core.start.converter import WordConverter

Linear = tuple[Tensor, Tensor]
"""Weight ``[out, in]`` and bias ``[out]`` of a linear layer."""


def merge(converter: WordConverter, weight: Tensor, bias: Tensor) -> Linear:
    """The word converter after the source's projector, as one linear layer (paper, section 4.2, stage 1 b).

    ``g(f_s(x)) = W_w (W_s x + b_s) + b_w``, so ``W_t = W_w W_s`` and ``b_t = W_w b_s + b_w``.

    Args:
        converter: weight ``[D_t, D_s]`` and bias ``[D_t]``.
        weight, bias: the source's projector, ``[D_s, D]`` and ``[D_s]``.

    Returns:
        ``[D_t, D]`` and ``[D_t]`` in fp32, computed in fp64.
    """
    w, b = converter.weight.double(), converter.bias.double()
    return (w @ weight.double()).float(), (w @ bias.double() + b).float()


def random_projector(in_features: int, out_features: int, seed: int) -> Linear:
    """``nn.Linear``'s own initialisation, which BLIP-2 uses for training from scratch (TFS), with its own seed."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.empty(out_features, in_features), torch.empty(out_features)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(in_features)
    nn.init.uniform_(bias, -bound, bound, generator=generator)
    return weight, bias


def soft_prompts(outputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Project the VPG's outputs ``[..., D]`` to soft prompts ``[..., D_t]``."""
    return nn.functional.linear(outputs.to(weight.dtype), weight, bias)


def spread(projector: Linear, center: Tensor, factor: float) -> Linear:
    """The projector whose soft prompts lie `factor` times as far from the one of the VPG's output `center` ``[D]``."""
    weight, bias = projector
    return weight * factor, bias + (1 - factor) * (weight @ center)


def unity(outputs: Tensor, ridge: float = 1e-3) -> Tensor:
    """The vector ``v`` ``[D]`` with ``v x`` nearest to 1 for the VPG's outputs ``[N, D]``, in fp64.

    It is their mean, weighted by how little they vary in each direction. `ridge` is relative to the mean variance of a
    direction.
    """
    x = outputs.double()
    mean = x.mean(0)
    spread_out = (x - mean).T @ (x - mean) / len(x)
    spread_out.diagonal().add_(ridge * spread_out.diagonal().mean().clamp_min(1e-30))
    way = torch.linalg.solve(spread_out, mean)
    return way / (1 + mean @ way)


def without_bias(projector: Linear, unity: Tensor) -> Linear:
    """The projector with its bias in the weight, ``W + b v`` with ``v x`` about 1 (`unity`), and a bias of zeros."""
    weight, bias = projector
    held = weight.double() + torch.outer(bias.double(), unity.to(bias.device))
    return held.float(), torch.zeros_like(bias)

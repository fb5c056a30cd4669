"""Sampling at a temperature from random numbers that are given, so that a text depends on nothing but its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampled:
    """A sampled text; one that is not `ended` was cut at the limit of its length."""

    text: str
    ended: bool


class GivenDraws(LogitsProcessor):
    """Leaves of each row's scores only the token that the row's next random number chooses: as likely as its share of
    ``softmax(scores / temperature)``. A temperature of 0 takes the likeliest.

    Args:
        temperature: not negative.
        draws: numbers from [0, 1), ``[B, T]`` for texts of at most T tokens.
    """

    def __init__(self, temperature: float, draws: Tensor) -> None:
        self.temperature = temperature
        self.draws = draws
        self.step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self.temperature:
            below = (scores.double() / self.temperature).softmax(-1).cumsum(-1)
            wanted = self.draws[:, self.step : self.step + 1].to(below) * below[:, -1:]
            chosen = torch.searchsorted(below, wanted, right=True).clamp_max(scores.shape[-1] - 1)
        else:
            chosen = scores.argmax(-1, keepdim=True)
        self.step += 1
        only: torch.FloatTensor = torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)  # type: ignore[assignment]
        return only

"""Pre-training a VPG of one's own: the interface of the families that can be made from nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.cards import VPGSizes
from vpgtrans_core.vpg.adapter import VPG

PAD, READ, WRITE, END = range(4)
"""The first tokens of the vocabulary: what fills up a row, what begins a text that is read, what begins one that is
written, and what ends both. A row of tokens ``[T]`` has `END` after its text, and neither of the two beginnings."""
SPECIAL = ("<pad>", "<read>", "<write>", "<end>")
TEMPERATURE = 0.07
"""The temperature of the contrast at the start; it is learned."""


@dataclass(frozen=True)
class Embedded:
    """What a step makes of its images and of one text about each.

    Attributes:
        images: unit vectors ``[B, Q, E]``, one a soft prompt.
        texts: unit vectors ``[B, E]``.
        text_loss: the mean loss of the texts' tokens, given the images; None for a family that writes no texts.
    """

    images: Tensor
    texts: Tensor
    text_loss: Tensor | None = None


class Pretraining(nn.Module, ABC):
    """A VPG with fresh weights, and what it needs beside itself to be pre-trained: a text side, which is dropped in
    the end.

    Args:
        config: what `configure` returned.
        words: size of the vocabulary, `SPECIAL` included.
        longest: most tokens of a text, `END` included.
        trains_vision: whether the frozen part of the VPG (`VPG.features`) is trained here, because it is made from
            nothing; otherwise `read_vision` fills it.

    Attributes:
        vpg: the VPG. Its names and shapes may differ from those of `finished`.
        chance: as of `VLModel`; there is no LLM here.
    """

    vpg: VPG
    chance: float | None = None

    def __init__(self, config: dict[str, Any], words: int, longest: int, *, trains_vision: bool) -> None:
        super().__init__()
        self.trains_vision = trains_vision
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))

    @classmethod
    @abstractmethod
    def configure(
        cls, sizes: VPGSizes, vision: dict[str, Any] | None = None, like: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the ``config.json`` of the VPG's folder; its ``model_type`` is one of the plugin's families.

        Args:
            sizes: those that were asked for.
            vision: the ``config.json`` of the model whose vision tower is to be the frozen part.
            like: the ``config.json`` of a VPG or VL-LLM of this family, whose sizes count where `sizes` are open.

        Raises:
            ConfigError: the sizes do not go together; all problems. ModelError: `vision` has no vision tower.
        """

    @abstractmethod
    def read_vision(self, folder: Path) -> None:
        """Read the frozen part from the folder of a model with a vision tower, and how it wants its images."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """As `VPG.features`, with a gradient; called where the frozen part is trained."""

    @abstractmethod
    def embed(self, features: Tensor, ids: Tensor) -> Embedded:
        """Features ``[B, *feature_shape]`` and tokens ``[B, T]``, filled up with `PAD`, to vectors to compare."""

    @abstractmethod
    def finished(self) -> VPG:
        """The VPG alone, with the weights as they are now, for `VPG.save_part`."""

    @property
    def device(self) -> torch.device:
        return self.sharpness.device

    def similarities(self, images: Tensor, texts: Tensor) -> Tensor:
        """Logits ``[I, T]`` of images ``[I, Q, E]`` and texts ``[T, E]``: a text meets the soft prompt that fits it
        best (BLIP-2, section 3.2)."""
        nearest = torch.einsum("iqe,te->itq", images, texts).max(-1).values
        return nearest * self.sharpness.clamp(max=math.log(100)).exp()

    def train_only(self, names: Collection[str] = ()) -> None:
        """Train all but a vision tower that was given; there is but one group of parameters."""
        kept = set() if self.trains_vision else self._tower()
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) not in kept)
        self.train()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        kept = set() if self.trains_vision else self._tower()
        return {name: p for name, p in self.named_parameters() if id(p) not in kept}

    def parameters_of(self, names: Collection[str]) -> dict[str, nn.Parameter]:
        return self.trained()

    def _tower(self) -> set[int]:
        trained = {id(p) for _, p in self.vpg.trained()}
        return {id(p) for p in self.vpg.parameters()} - trained

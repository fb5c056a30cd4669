"""VPG adapters, each broken in one way that the kit looks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.testing.patch_vpg import PATCH, PatchVPG
from vpgtrans_core.weights import Weights, save_tensors


class Plain(PatchVPG):
    """Not broken."""

    @classmethod
    def from_config(cls, config):
        return cls()

    @classmethod
    def load_projector(cls, folder):
        return super().load_projector(folder) if "projector.weight" in Weights(folder) else None


class NoVPG:
    """Not a subclass of VPG."""


class WrongShape(Plain):
    def __init__(self):
        super().__init__()
        self.num_prompts = 5


class CountsWrong(Plain):
    @classmethod
    def describe(cls, config):
        return {**super().describe(config), "trained": 7}


class NormOfTheBatch(Plain):
    def prompts(self, features):
        return super().prompts(features - features.mean(0, keepdim=True))


@dataclass(frozen=True)
class Halves(Preprocessing):
    """Two tiles a picture, and one soft prompt more than there is."""

    tiled: ClassVar[bool] = True

    def tiles(self, image):
        return [self.fit(image)] * 2

    def count(self, width, height):
        return 2

    def runs(self, width, height):
        return 4, "and", 5

    @property
    def most_prompts(self):
        return 10


class PromisesMore(Plain):
    def __init__(self):
        super().__init__()
        self.preprocessing = Halves(size=self.preprocessing.size)


class DropoutInFeatures(Plain):
    def features(self, pixels):
        return nn.functional.dropout(super().features(pixels), 0.5, self.training)


class ForgetsAParameter(Plain):
    def trained(self):
        return ((n, p) for n, p in super().trained() if "bias" not in n)


class TrainsInHalf(Plain):
    @classmethod
    def load(cls, folder, *, dtype=torch.float32, device="cpu"):
        return super().load(folder, dtype=dtype, device=device).to(dtype)


class SavesRounded(Plain):
    def save_part(self, folder, projector, *, references):
        super().save_part(folder, projector, references=references)
        weights = Weights(folder)
        rounded = {name: weights.read(name).bfloat16().float() for name in weights}
        save_tensors(folder / "vpg.safetensors", rounded)


class LoadsAnything(Plain):
    @classmethod
    def load(cls, folder, *, dtype=torch.float32, device="cpu"):
        vpg, weights = cls(), Weights(folder)
        mine = vpg.state_dict()
        fitting = {n: weights.read(n) for n in weights if n in mine and weights.shape(n) == tuple(mine[n].shape)}
        vpg.load_state_dict(fitting, strict=False)
        return vpg


class TrainsItsPatches(Plain):
    """Its optimiser's step reaches the frozen part: `prompts` writes to it."""

    def prompts(self, features):
        if torch.is_grad_enabled() and self.training:
            with torch.no_grad():
                self.patches.weight.add_(0.01 / PATCH)
        return super().prompts(features)


class KeepsItsMixToItself(Plain):
    """A part of what it computes lies in this process alone."""

    def prompts(self, features):
        return super().prompts(features) + os.getpid()


class PrintsSomethingElse(QFormerVPG):
    loading_code = "print('a fish')"

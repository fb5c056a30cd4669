"""How an image becomes the pixels that a VPG reads."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a square of pixels: resized bicubically without keeping the aspect, as transformers' BLIP
    processor does, then scaled to mean 0 and deviation 1. A family whose own processor crops or pads derives from this
    class and overrides `fit`; an object travels to data workers and is part of a cache's key."""

    size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def fit(self, image: Image.Image) -> Image.Image:
        """An RGB image as an RGB square of `size` pixels."""
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

"""How an image becomes the pixels that a VPG reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

USUAL = (640, 480)
"""Width and height of the picture by which plans count tiles: most pictures of the training sets are about so large."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a square of pixels: resized bicubically without keeping the aspect, as transformers' BLIP
    processor does, then scaled to mean 0 and deviation 1. A family whose own processor crops or pads derives from this
    class and overrides `fit`; an object travels to data workers and is part of a cache's key.

    A family that cuts pictures into tiles sets `tiled` and overrides `tiles`, `count`, `runs` and
    `most_prompts`.

    Attributes:
        tiled: whether pictures have several tiles, as many as fit their shape.
        whole: which of a picture's tiles shows all of it.
    """

    tiled: ClassVar[bool] = False
    whole: ClassVar[int] = 0

    size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def fit(self, image: Image.Image) -> Image.Image:
        """An RGB image as an RGB square of `size` pixels."""
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def tiles(self, image: Image.Image) -> list[Image.Image]:
        """The tiles of an RGB image: RGB squares of `size` pixels."""
        return [self.fit(image)]

    def count(self, width: int, height: int) -> int:
        """How many tiles a picture of this size has."""
        return 1

    @property
    def usual_tiles(self) -> int:
        """How many tiles a usual picture has."""
        return self.count(*USUAL)

    @property
    def most_prompts(self) -> int:
        """How many positions a picture takes at most, words included. Asked of a tiled family only."""
        raise NotImplementedError(f"{type(self).__name__} is tiled and does not say how many soft prompts there are")

    def runs(self, width: int, height: int) -> Sequence[int | str]:
        """What stands in a text in the place of a picture of this size: numbers of soft prompts, and words between
        them. It follows from the size alone, so that rows are laid out before anything is computed. Asked of a tiled
        family only."""
        raise NotImplementedError(f"{type(self).__name__} is tiled and does not say what stands in a picture's place")


def squares(image: Image.Image, size: int) -> list[Image.Image]:
    """A picture of whole tiles, cut into squares of `size` pixels, row by row."""
    corners = [(x, y) for y in range(0, image.height, size) for x in range(0, image.width, size)]
    return [image.crop((x, y, x + size, y + size)) for x, y in corners]

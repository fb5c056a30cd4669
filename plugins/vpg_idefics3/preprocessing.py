"""How Idefics3's pictures become squares, as the folder's image processor says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values

MOST = 4096
"""The longest side that the family's processor resizes to."""
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Shrunk(Preprocessing):
    """The family's: the longer side is resized to `longest` first, and the result to a square of `size`."""

    size: int = 512
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    longest: int = 2048

    def fit(self, image: Image.Image) -> Image.Image:
        return self.square(image.resize(self.shrunk(*image.size), Image.Resampling.LANCZOS))

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture whose longer side is `longest`."""
        most = self.longest
        if width >= height:
            return most, max(1, _even(int(most / (width / height))))
        return max(1, _even(int(most * (width / height)))), most

    def square(self, image: Image.Image) -> Image.Image:
        """All of a picture as a square of `size` pixels."""
        return image.resize((self.size, self.size), Image.Resampling.LANCZOS)


def _even(side: int) -> int:
    return side + side % 2


def preprocessing_of(folder: str | Path, image_size: int) -> Shrunk:
    """What a folder's image processor says of pictures that are not split; the published one's where there is none.

    Raises:
        ModelError: it makes other pictures than the ViT reads.
    """
    path, values = image_processor_values(folder)
    side = (values.get("max_image_size") or {}).get("longest_edge", image_size)
    longest = (values.get("size") or {}).get("longest_edge", 4 * image_size)
    if side != image_size or values.get("resample", 1) != 1 or not isinstance(longest, int) or longest > MOST:
        raise ModelError(
            f"{path} asks for pictures that vpgt's Idefics3 plugin does not make (max_image_size {side}, size "
            f"{values.get('size')}, resample {values.get('resample')})",
            f"the ViT reads {image_size} px: squares of that size, resized by Lanczos, are supported",
        )
    mean, std = (tuple(values.get(name) or HALF) for name in ("image_mean", "image_std"))
    return Shrunk(size=image_size, mean=mean, std=std, longest=longest)

"""How Idefics3's pictures become squares when they are not split, as the folder's image processor says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import Preprocessing

FILES = ("preprocessor_config.json", "processor_config.json")
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
        width, height = image.size
        most = self.longest
        if width >= height:
            size = most, max(1, _even(int(most / (width / height))))
        else:
            size = max(1, _even(int(most * (width / height)))), most
        lanczos = Image.Resampling.LANCZOS
        return image.resize(size, lanczos).resize((self.size, self.size), lanczos)


def _even(side: int) -> int:
    return side + side % 2


def preprocessing_of(folder: str | Path, image_size: int) -> Preprocessing:
    """What a folder's image processor says; the published one's where there is none. Pictures are never split.

    Raises:
        ModelError: it makes other pictures than the ViT reads.
    """
    path = next((p for name in FILES if (p := Path(folder) / name).is_file()), None)
    values: dict[str, Any] = read_json(path) if path else {}
    values = values.get("image_processor", values)
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


def image_processor(preprocessing: Preprocessing) -> Idefics3ImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes."""
    assert isinstance(preprocessing, Shrunk)
    return Idefics3ImageProcessorPil(
        size={"longest_edge": preprocessing.longest},
        max_image_size={"longest_edge": preprocessing.size},
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
        do_image_splitting=False,
    )

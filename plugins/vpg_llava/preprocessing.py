"""How LLaVA's pictures become squares, as the folder's image processor says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values


@dataclass(frozen=True)
class CentreCrop(Preprocessing):
    """CLIP's: the shorter side is resized to `size`, and the middle cut out."""

    def fit(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        short, long = min(width, height), int(self.size * max(width, height) / min(width, height))
        resized = image.resize((self.size, long) if width == short else (long, self.size), Image.Resampling.BICUBIC)
        left, top = (resized.width - self.size) // 2, (resized.height - self.size) // 2
        return resized.crop((left, top, left + self.size, top + self.size))


def preprocessing_of(folder: str | Path, image_size: int) -> Preprocessing:
    """What a folder's ``preprocessor_config.json`` says; CLIP's where there is none.

    Raises:
        ModelError: it wants something else than a crop of the middle, or a plain resize.
    """
    path, values = image_processor_values(folder)
    crops = not str(values.get("image_processor_type")).startswith("Siglip")  # by default
    kind: type[Preprocessing] = CentreCrop if values.get("do_center_crop", crops) else Preprocessing
    size = values.get("size")
    side = next(iter(size.values())) if isinstance(size, dict) else size or image_size
    crop = values.get("crop_size") if kind is CentreCrop else None
    crop = next(iter(crop.values())) if isinstance(crop, dict) else crop or image_size
    mean, std = values.get("image_mean"), values.get("image_std")
    if (side, crop) != (image_size, image_size) or values.get("do_pad") or values.get("resample", 3) != 3:
        raise ModelError(
            f"{path} asks for pictures that vpgt's LLaVA plugin does not make ({values.get('size')}, crop "
            f"{values.get('crop_size')}, pad {values.get('do_pad')}, resample {values.get('resample')})",
            f"the ViT reads {image_size} px: a bicubic resize, with or without a crop of the middle, is supported",
        )
    own = {name: tuple(value) for name, value in (("mean", mean), ("std", std)) if value}
    return kind(size=image_size, **own)


def square_processor(preprocessing: Preprocessing) -> CLIPImageProcessorPil | SiglipImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes."""
    square = {"height": preprocessing.size, "width": preprocessing.size}
    values = {"image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std), "resample": 3}
    if isinstance(preprocessing, CentreCrop):
        return CLIPImageProcessorPil(size={"shortest_edge": preprocessing.size}, crop_size=square, **values)
    return SiglipImageProcessorPil(size=square, do_center_crop=False, **values)

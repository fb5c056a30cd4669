"""How InternVL's pictures become squares when they are not cut into tiles, as the folder's image processor says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import Preprocessing

FILES = ("preprocessor_config.json", "processor_config.json")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as in the published folders."""


def preprocessing_of(folder: str | Path, image_size: int) -> Preprocessing:
    """What a folder's image processor says of one tile; the published one's where there is none.

    Raises:
        ModelError: it makes other pictures than the ViT reads.
    """
    path = next((p for name in FILES if (p := Path(folder) / name).is_file()), None)
    values: dict[str, Any] = read_json(path) if path else {}
    values = values.get("image_processor", values)
    size = values.get("size") or {"height": image_size, "width": image_size}
    if size != {"height": image_size, "width": image_size} or values.get("resample", 3) != 3:
        raise ModelError(
            f"{path} asks for pictures that vpgt's InternVL plugin does not make (size {values.get('size')}, resample "
            f"{values.get('resample')})",
            f"the ViT reads {image_size} px: squares of that size, resized bicubically, are supported",
        )
    return Preprocessing(
        size=image_size, mean=tuple(values.get("image_mean") or MEAN), std=tuple(values.get("image_std") or STD)
    )


def image_processor(preprocessing: Preprocessing) -> SiglipImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes. The family's own would say beside them how many
    tiles there are, which no class but its own processor takes away again."""
    square = {"height": preprocessing.size, "width": preprocessing.size}
    return SiglipImageProcessorPil(
        size=square, image_mean=list(preprocessing.mean), image_std=list(preprocessing.std), resample=3
    )

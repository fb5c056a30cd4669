"""How InternVL's pictures become squares, as the folder's image processor says."""

from __future__ import annotations

from pathlib import Path

from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as in the published folders."""


def preprocessing_of(folder: str | Path, image_size: int) -> Preprocessing:
    """What a folder's image processor says of one tile; the published one's where there is none.

    Raises:
        ModelError: it makes other pictures than the ViT reads.
    """
    path, values = image_processor_values(folder)
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

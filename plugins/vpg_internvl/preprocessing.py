"""How InternVL's pictures become squares, as the folder's image processor says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import Preprocessing

FILES = ("preprocessor_config.json", "processor_config.json")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as in the published folders."""


def values_of(folder: str | Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that describes a folder's image processor, and what it says; nothing where there is none."""
    path = next((p for name in FILES if (p := Path(folder) / name).is_file()), None)
    values: dict[str, Any] = read_json(path) if path else {}
    return path, values.get("image_processor", values)


def preprocessing_of(folder: str | Path, image_size: int) -> Preprocessing:
    """What a folder's image processor says of one tile; the published one's where there is none.

    Raises:
        ModelError: it makes other pictures than the ViT reads.
    """
    path, values = values_of(folder)
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

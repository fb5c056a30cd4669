"""The sizes of a ViT + Q-Former, from a config.json of either folder format, and empty modules of those sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.weights import read_json

if TYPE_CHECKING:  # transformers takes seconds to import, in which a bad file can have been refused already
    from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel

BLIP2 = "blip-2"
PART = "vpgt-vpg"
MODEL_TYPES = (BLIP2, PART)
FAMILY = "qformer"
TOWER_PART, TOWER_FAMILY = "vpgt-vpg-tower", "qformer-tower"
"""The same with another vision tower of transformers in the ViT's place."""
FORMAT = 1
"""The version of the ``vpgt-vpg`` folder that is written, and the newest that is read."""


@dataclass(frozen=True)
class Sizes:
    """A ViT + Q-Former in transformers' own configs."""

    vision: Blip2VisionConfig
    qformer: Blip2QFormerConfig
    num_query_tokens: int

    @property
    def feature_shape(self) -> tuple[int, int]:
        """``(N, C)``: patches and the class token, and the ViT's width."""
        return (self.vision.image_size // self.vision.patch_size) ** 2 + 1, self.vision.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """The part of config.json that describes the VPG, in either format."""
        return {
            "num_query_tokens": self.num_query_tokens,
            "vision_config": self.vision.to_diff_dict(),
            "qformer_config": self.qformer.to_diff_dict(),
        }

    def vision_model(self) -> Blip2VisionModel:
        """A ViT with random weights on the current device.

        The paper's code gives the last norm another eps than the ViT's (1e-5 and 1e-6). transformers' format has no
        field for it, so it travels as ``post_layernorm_eps``, which transformers keeps and ignores.
        """
        from transformers import Blip2VisionModel

        model = Blip2VisionModel(self.vision)
        model.post_layernorm.eps = getattr(self.vision, "post_layernorm_eps", self.vision.layer_norm_eps)
        return model

    def qformer_model(self) -> Blip2QFormerModel:
        """A Q-Former with random weights on the current device."""
        from transformers import Blip2QFormerModel

        return Blip2QFormerModel(self.qformer)


def sizes_of(config: dict[str, Any]) -> Sizes:
    """Read the sizes out of a folder's config.json.

    Raises:
        ModelError: the folder holds another kind of model, a newer format, or sizes that fit no ViT.
    """
    kind = config.get("model_type")
    if kind not in (*MODEL_TYPES, TOWER_PART):
        raise ModelError(
            f"the folder's model type is {kind!r}, not a VL-LLM with a Q-Former ({' or '.join(MODEL_TYPES)})",
            "a source is a BLIP-2 folder of transformers, or what vpgt wrote or imported",
        )
    family = TOWER_FAMILY if kind == TOWER_PART else FAMILY
    if kind != BLIP2 and (config.get("vpg_family") != family or config.get("format", 0) > FORMAT):
        raise ModelError(
            f"a VPG of family {config.get('vpg_family')!r}, format {config.get('format')!r}; "
            f"this version reads {family!r} up to format {FORMAT}",
            "update vpgt, or save the VPG again with this version",
        )
    from transformers import Blip2QFormerConfig

    try:
        vision = _vision_config(str(kind), dict(config.get("vision_config") or {}))
        qformer = Blip2QFormerConfig.from_dict(dict(config.get("qformer_config") or {}))
        qformer.use_qformer_text_input = False  # the text branch of pre-training is not part of a VPG
        qformer.encoder_hidden_size = vision.hidden_size
        sizes = _sizes_class(str(kind))(vision, qformer, int(config.get("num_query_tokens", 32)))
        with torch.device("meta"):
            sizes.vision_model(), sizes.qformer_model()
    except Exception as error:  # transformers checks its configs with many kinds of error
        raise ModelError(f"config.json describes no ViT and Q-Former: {error}") from error
    return sizes


def _vision_config(kind: str, values: dict[str, Any]) -> Any:
    """transformers' config of the vision model in a folder of this kind."""
    from transformers import AutoConfig, Blip2VisionConfig

    if kind == TOWER_PART:
        return AutoConfig.for_model(values.pop("model_type"), **values)
    return Blip2VisionConfig.from_dict(values)


def _sizes_class(kind: str) -> type[Sizes]:
    from vpg_qformer.tower import TowerSizes

    return TowerSizes if kind == TOWER_PART else Sizes


def read_config(folder: str | Path) -> dict[str, Any]:
    """A folder's config.json.

    Raises:
        ModelError: there is none.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: it has no config.json", "give a folder that holds a VL-LLM")
    return read_json(path)


def preprocessing_of(folder: str | Path, sizes: Sizes) -> Preprocessing:
    """Image size from the ViT; mean and std from ``preprocessor_config.json`` where there is one."""
    path = Path(folder) / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    default = Preprocessing(size=sizes.vision.image_size)
    mean, std = (tuple(values.get(key) or fallback) for key, fallback in _fallbacks(default))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ModelError(f"{path} has no usable image_mean and image_std")
    return Preprocessing(size=sizes.vision.image_size, mean=mean, std=std)


def _fallbacks(default: Preprocessing) -> tuple[tuple[str, Any], ...]:
    return ("image_mean", default.mean), ("image_std", default.std)

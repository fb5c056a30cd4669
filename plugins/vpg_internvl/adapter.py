"""InternVL's ViT, pixel shuffle and the first layer of its MLP, on transformers' own vision class.

The patches of a square of 2 x 2 become one vector, which ``linear_2(act(linear_1(norm(vector))))``
maps to a soft prompt. `norm`, `linear_1` and the activation belong to the VPG, and norm and `linear_1` are what stage 2
trains of it; `linear_2` is the linear projector that the core owns.
A picture is one tile here; `vpg_internvl.tiled` cuts it into several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLVisionModel

from vpg_internvl.classes import WHOLE, image_processor, plain_processor
from vpg_internvl.names import LAYER, NORM, PART, PROJECTOR, TEXT_TYPE, TOWER
from vpg_internvl.preprocessing import MEAN, STD, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import loading_code
from vpgtrans_core.vpg.mlp import MLPVPG


class InternVLVPG(MLPVPG):
    """A ViT, a pixel shuffle and the first layer of an MLP."""

    loading_code = loading_code("InternVLForConditionalGeneration")
    whole = WHOLE
    what, part, text_type = "InternVL", PART, TEXT_TYPE
    tower, trained_names, projector_name = TOWER, (NORM, LAYER), PROJECTOR
    defaults: ClassVar[dict[str, Any]] = {
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }

    vision: InternVLVisionConfig

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.vision = vision_config(config)
        side, factor = grid(self.vision), round(1 / float(self.settings["downsample_ratio"]))
        if side % factor:
            raise ModelError(f"a grid of {side} x {side} patches cannot be shuffled by {factor}")
        width = self.vision.hidden_size * factor**2
        self.num_prompts = (side // factor) ** 2
        self.feature_shape = (self.num_prompts, width)
        self.preprocessing = preprocessing or self.plain_preprocessing()
        self.vision_tower = InternVLVisionModel._from_config(self.vision)
        self.multi_modal_projector = nn.ModuleDict(
            {"layer_norm": nn.LayerNorm(width), "linear_1": nn.Linear(width, self.output_size)}
        )
        self.act = ACT2FN[self.settings["projector_hidden_act"]]

    def plain_preprocessing(self) -> Preprocessing:
        """How images become pixels where no folder says it."""
        return Preprocessing(size=image_size(self.vision), mean=MEAN, std=STD)

    def preprocessing_of(self, folder: Path) -> Preprocessing:
        return preprocessing_of(folder, image_size(self.vision))

    def image_processor(self) -> Any:
        return image_processor(self.preprocessing)

    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str) -> None:
        plain_processor(self, tokenizer, chat_template).save_pretrained(folder)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to shuffled patches ``[B, N / 4, 4 C]``, in the ViT's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            pixels = pixels.to(next(self.vision_tower.parameters()).dtype)
            layer = self.settings["vision_feature_layer"]
            seen = self.vision_tower(pixels, output_hidden_states=layer != -1)
            states = seen.last_hidden_state if layer == -1 else seen.hidden_states[layer]
            side = grid(self.vision)
            patches = states[:, 1:].reshape(len(states), side, side, -1)
            ratio = float(self.settings["downsample_ratio"])
            return InternVLModel.pixel_shuffle(cast(Any, None), patches, ratio).flatten(1, 2)

    def prompts(self, features: Tensor) -> Tensor:
        """Shuffled patches ``[B, Q, C]`` to the MLP's hidden layer ``[B, Q, D]`` in fp32."""
        norm, linear = self.multi_modal_projector["layer_norm"], self.multi_modal_projector["linear_1"]
        return self.act(linear(norm(features.to(linear.weight.dtype)))).float()

    def train(self, mode: bool = True) -> InternVLVPG:
        """The frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self


def vision_config(config: dict[str, Any]) -> InternVLVisionConfig:
    """The ViT's config.

    Raises:
        ModelError: the ViT is of another kind, not square, or read in a way that is not supported.
    """
    vision = dict(config.get("vision_config") or {})
    kind, layer = vision.pop("model_type", InternVLVisionConfig.model_type), config.get("vision_feature_layer", -1)
    strategy = config.get("vision_feature_select_strategy", "default")
    if kind != InternVLVisionConfig.model_type or not isinstance(layer, int) or strategy != "default":
        raise ModelError(
            f"an InternVL with the ViT {kind!r}, layer {layer!r}, patches {strategy!r}, is not supported",
            "the patches of one layer of transformers' InternVL ViT are",
        )
    made = InternVLVisionConfig(**vision)
    if len(set(cast(tuple[int, ...], made.image_size))) != 1 or len(set(cast(tuple[int, ...], made.patch_size))) != 1:
        raise ModelError(f"an InternVL for pictures of {made.image_size} px is not supported", "squares are")
    return made


def image_size(vision: InternVLVisionConfig) -> int:
    """The side of the square that the ViT reads, in pixels."""
    return int(cast(tuple[int, ...], vision.image_size)[0])


def grid(vision: InternVLVisionConfig) -> int:
    """The patches on one side of the square."""
    return image_size(vision) // int(cast(tuple[int, ...], vision.patch_size)[0])

"""Idefics3's ViT and pixel shuffle, on transformers' own vision class.

The patches of a square of ``scale x scale`` become one soft prompt, of the patches' width times ``scale^2``. The ViT's
last norm is what stage 2 trains of the VPG. The connector's matrix is the linear projector that the core owns; it has
no bias. A picture is one tile here; `vpg_idefics3.tiled` cuts it into several.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector, Idefics3VisionTransformer

from vpg_idefics3.classes import WHOLE, image_processor, plain_processor
from vpg_idefics3.names import PART, PROJECTOR, TEXT_TYPE, TOWER, TRAINED
from vpg_idefics3.preprocessing import Shrunk, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import BareVPG, loading_code

FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "num_channels", "hidden_act", "layer_norm_eps",
)  # fmt: skip
"""Fields of the vision config that say how it computes."""


class Idefics3VPG(BareVPG):
    """A ViT and a pixel shuffle.

    Attributes:
        scale: how many patches a soft prompt takes in height, and in width.
    """

    loading_code = loading_code("Idefics3ForConditionalGeneration")
    projector_bias = False
    whole = WHOLE
    what, part, text_type = "Idefics3", PART, TEXT_TYPE
    tower, trained_names, projector_name = TOWER, (TRAINED,), PROJECTOR
    defaults: ClassVar[dict[str, Any]] = {"scale_factor": 2}

    vision: Idefics3VisionConfig

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.vision = vision_config(config)
        self.scale = int(self.settings["scale_factor"])
        side = self.image_size // cast(int, self.vision.patch_size)
        if side % self.scale:
            raise ModelError(f"a grid of {side} x {side} patches cannot be shuffled by {self.scale}")
        self.num_prompts = (side // self.scale) ** 2
        self.output_size = self.vision.hidden_size * self.scale**2
        self.feature_shape = (side**2, self.vision.hidden_size)
        self.preprocessing = preprocessing or self.plain_preprocessing()
        self.model = nn.ModuleDict({"vision_model": Idefics3VisionTransformer._from_config(self.vision)})

    @property
    def vit(self) -> Any:
        return self.model["vision_model"]

    @property
    def image_size(self) -> int:
        """The side of the square that the ViT reads, in pixels."""
        return cast(int, self.vision.image_size)

    def plain_preprocessing(self) -> Shrunk:
        """How images become pixels where no folder says it."""
        return Shrunk(size=self.image_size, longest=4 * self.image_size)

    def preprocessing_of(self, folder: Path) -> Shrunk:
        return preprocessing_of(folder, self.image_size)

    def image_processor(self) -> Any:
        return image_processor(self.preprocessing)

    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str) -> None:
        plain_processor(self, tokenizer, chat_template).save_pretrained(folder)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the patches ``[B, N, C]`` before the ViT's last norm, in the ViT's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            pixels = pixels.to(self.vit.embeddings.patch_embedding.weight.dtype)
            side = self.image_size // cast(int, self.vision.patch_size)
            whole = torch.ones(len(pixels), side, side, dtype=torch.bool, device=pixels.device)
            patches = self.vit.embeddings(pixel_values=pixels, patch_attention_mask=whole)
            return self.vit.encoder(inputs_embeds=patches).last_hidden_state

    def prompts(self, features: Tensor) -> Tensor:
        """Patches ``[B, N, C]`` to shuffled patches ``[B, N / scale^2, C scale^2]`` in fp32."""
        norm = self.vit.post_layernorm
        normed = norm(features.to(norm.weight.dtype))
        return Idefics3Connector.pixel_shuffle(cast(Any, None), normed, self.scale).float()


def vision_config(config: dict[str, Any]) -> Idefics3VisionConfig:
    """The ViT's config; SmolVLM's has the same fields under another name."""
    vision = config.get("vision_config") or {}
    return Idefics3VisionConfig(**{name: vision[name] for name in FIELDS if name in vision})

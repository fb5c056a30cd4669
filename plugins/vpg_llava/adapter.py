"""A ViT and the first layer of LLaVA's MLP, on transformers' own vision classes.

LLaVA maps each patch by ``linear_2(act(linear_1(patch)))``. `linear_1` and the activation belong to the VPG, and
`linear_1` is what stage 2 trains of it; `linear_2` is the linear projector that the core owns and initialises anew for
another language model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN

from vpg_llava.classes import CLASSES, image_processor, save_processor
from vpg_llava.names import LLAVA, PART, PROJECTOR, TEXT_TYPE, TOWER, TRAINED
from vpg_llava.preprocessing import CentreCrop, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import loading_code
from vpgtrans_core.vpg.mlp import MLPVPG

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.weights import Weights


class LlavaVPG(MLPVPG):
    """One soft prompt for each patch."""

    loading_code = loading_code("LlavaForConditionalGeneration")
    what = "LLaVA"
    whole = CLASSES[LLAVA]
    part = PART
    text_type = TEXT_TYPE
    tower, trained_names, projector_name = TOWER, (TRAINED,), PROJECTOR
    defaults: ClassVar[dict[str, Any]] = {
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
    }

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.vision = vision_config(config, self.settings)
        size, patch = self.vision.image_size, self.vision.patch_size
        self.vision_tower = AutoModel.from_config(self.vision)
        has_class = self.vision.model_type == "clip_vision_model"
        self.first = 1 if has_class and self.settings["vision_feature_select_strategy"] == "default" else 0
        self.num_prompts = (size // patch) ** 2 + has_class - self.first
        self.feature_shape = (self.num_prompts, self.vision.hidden_size)
        self.preprocessing = preprocessing or self.plain_preprocessing()
        self.multi_modal_projector = nn.ModuleDict({"linear_1": nn.Linear(self.vision.hidden_size, self.output_size)})
        self.act = ACT2FN[self.settings["projector_hidden_act"]]

    def plain_preprocessing(self) -> Preprocessing:
        """How images become pixels where no folder says it."""
        return CentreCrop(size=self.vision.image_size)

    def preprocessing_of(self, folder: Path) -> Preprocessing:
        return preprocessing_of(folder, self.vision.image_size)

    def image_processor(self) -> Any:
        return image_processor(self.preprocessing)

    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str | None) -> None:
        save_processor(folder, self, tokenizer, chat_template)

    def read_tensors(self, folder: Path, weights: Weights) -> dict[str, Tensor]:
        """The tensors of a folder; older files have one more level of names."""
        tensors = super().read_tensors(folder, weights)
        return {name.replace(f"{TOWER}vision_model.", TOWER): value for name, value in tensors.items()}

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the patches ``[B, N, C]`` of the layer that LLaVA reads, in the ViT's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"  # a plan's "meta" device knows no autocast
        with torch.autocast(kind, enabled=False):  # it would cast every norm to fp32 and back
            pixels = pixels.to(next(self.vision_tower.parameters()).dtype)
            states = self.vision_tower(pixels, output_hidden_states=True).hidden_states
        return states[self.settings["vision_feature_layer"]][:, self.first :]

    def prompts(self, features: Tensor) -> Tensor:
        """Patches ``[B, N, C]`` to the MLP's hidden layer ``[B, N, D]`` in fp32."""
        linear = self.multi_modal_projector["linear_1"]
        return self.act(linear(features.to(linear.weight.dtype))).float()

    def train(self, mode: bool = True) -> LlavaVPG:
        """The frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self


def vision_config(config: dict[str, Any], settings: dict[str, Any]) -> PreTrainedConfig:
    """The ViT's config.

    Raises:
        ModelError: it is another kind of ViT than CLIP's or SigLIP's, or read in a way that is not supported.
    """
    vision = dict(config.get("vision_config") or {})
    kind = vision.setdefault("model_type", "clip_vision_model")
    layer = settings["vision_feature_layer"]
    if kind not in ("clip_vision_model", "siglip_vision_model") or not isinstance(layer, int):
        raise ModelError(
            f"a LLaVA with the ViT {kind!r}, layer {layer!r}, is not supported",
            "one layer of a CLIP or SigLIP ViT is",
        )
    if not settings["multimodal_projector_bias"]:
        raise ModelError("a LLaVA whose MLP has no bias is not supported", "use another source")
    return AutoConfig.for_model(**vision)

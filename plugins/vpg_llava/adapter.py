"""A ViT and the first layer of LLaVA's MLP, on transformers' own vision classes.

LLaVA maps each patch by ``linear_2(act(linear_1(patch)))``. `linear_1` and the activation belong to the VPG, and
`linear_1` is what stage 2 trains of it; `linear_2` is the linear projector that the core owns and initialises anew for
another language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN

from vpg_llava.names import HIDDEN, PROJECTOR, TOWER, TRAINED
from vpg_llava.preprocessing import CentreCrop, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.weights import Weights, check_finite, check_shapes, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

LOADING_CODE = """from transformers import AutoProcessor, LlavaForConditionalGeneration
from PIL import Image

processor = AutoProcessor.from_pretrained("{folder}")
model = LlavaForConditionalGeneration.from_pretrained("{folder}")
prompt = processor.apply_chat_template([dict(role="user", content=[dict(type="image")])], add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png"), text=prompt, add_special_tokens=False, return_tensors="pt")
said = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(said, skip_special_tokens=True)[0].strip())
"""
KEPT = ("vision_feature_layer", "vision_feature_select_strategy", "projector_hidden_act", "multimodal_projector_bias")
"""Fields of LLaVA's config that say how the VPG computes."""
DEFAULTS = {
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
}


class LlavaVPG(VPG):
    """One soft prompt for each patch. Parameters carry the names of LLaVA's files.

    Args:
        config: the contents of a config.json, LLaVA's or that of a folder of ours.
        preprocessing: how images become pixels; default CLIP's at the ViT's image size.

    Attributes:
        settings: how it computes, under the names of LLaVA's config.
    """

    loading_code = LOADING_CODE

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.vision = vision_config(config)
        self.settings = {name: config.get(name, DEFAULTS[name]) for name in KEPT}
        self.output_size = hidden_size(config)
        size, patch = self.vision.image_size, self.vision.patch_size
        self.preprocessing = preprocessing or CentreCrop(size=size)
        self.vision_tower = AutoModel.from_config(self.vision)
        has_class = self.vision.model_type == "clip_vision_model"
        self.first = 1 if has_class and self.settings["vision_feature_select_strategy"] == "default" else 0
        self.num_prompts = (size // patch) ** 2 + has_class - self.first
        self.feature_shape = (self.num_prompts, self.vision.hidden_size)
        self.multi_modal_projector = nn.ModuleDict({"linear_1": nn.Linear(self.vision.hidden_size, self.output_size)})
        self.act = ACT2FN[self.settings["projector_hidden_act"]]
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> LlavaVPG:
        """A VPG with random weights.

        Raises:
            ModelError: the config describes another kind of vision model.
        """
        try:
            vpg = cls(config, preprocessing)
        except ModelError:
            raise
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no LLaVA: {type(error).__name__}: {error}") from error
        return vpg

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> LlavaVPG:
        config = read_json(Path(folder) / "config.json")
        with torch.device("meta"):
            vision = vision_config(config)
        vpg = cls.from_config(config, preprocessing_of(folder, vision.image_size))
        weights = Weights(folder)
        tensors = {}
        for name in weights:
            if name.startswith(TOWER):  # older files have one more level of names
                tensors[name.replace(f"{TOWER}vision_model.", TOWER)] = weights.read(name)
            elif name.startswith(TRAINED):  # units beyond ours fill the folder up to the LLM's width
                tensors[name] = weights.read(name)[: vpg.output_size]
        load_strict(
            vpg, tensors, folder, dtype=lambda n: dtype if n.startswith(TOWER) else torch.float32, device=device
        )
        return vpg.eval()

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights = Weights(folder)
        names = PROJECTOR + "weight", PROJECTOR + "bias"
        if not any(name in weights for name in names):
            return None
        weight, bias = (weights.read(name).float() for name in names)
        check_finite({names[0]: weight, names[1]: bias}, folder)
        weight = weight[:, : hidden_size(read_json(Path(folder) / "config.json"))].contiguous()
        check_shapes({names[0]: (bias.numel(), weight.shape[1])}, {names[0]: tuple(weight.shape)}, folder)
        return weight, bias

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.vision.image_size)

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

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(TRAINED))

    def train(self, mode: bool = True) -> LlavaVPG:
        """The frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        from vpg_llava.folder import why_not_whole

        return why_not_whole(llm)

    @classmethod
    def widest(cls, embedding_size: int) -> int:
        return embedding_size

    def keep_outputs(self, units: Tensor) -> None:
        old = self.multi_modal_projector["linear_1"]
        units = units.to(old.weight.device)
        new = nn.Linear(self.vision.hidden_size, len(units), device=old.weight.device, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.copy_(old.weight[units])
            new.bias.copy_(old.bias[units])
        self.multi_modal_projector["linear_1"] = new.requires_grad_(False)
        self.output_size = len(units)

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_llava.folder import save_llava

        save_llava(Path(folder), self, projector, llm, llm_reference)

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_llava.folder import check_llava

        check_llava(Path(folder), self, projector, llm, llm_reference)

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        from vpg_llava.folder import save_part

        save_part(Path(folder), self, projector, references)


def vision_config(config: dict[str, Any]) -> PreTrainedConfig:
    """The ViT's config.

    Raises:
        ModelError: it is another kind of ViT than CLIP's or SigLIP's, or read in a way that is not supported.
    """
    vision = dict(config.get("vision_config") or {})
    kind = vision.setdefault("model_type", "clip_vision_model")
    layer = config.get("vision_feature_layer", -2)
    if kind not in ("clip_vision_model", "siglip_vision_model") or not isinstance(layer, int):
        raise ModelError(
            f"a LLaVA with the ViT {kind!r}, layer {layer!r}, is not supported",
            "one layer of a CLIP or SigLIP ViT is",
        )
    if not config.get("multimodal_projector_bias", True):
        raise ModelError("a LLaVA whose MLP has no bias is not supported", "use another source")
    return AutoConfig.for_model(**vision)


def hidden_size(config: dict[str, Any]) -> int:
    """The width of the MLP's hidden layer: as we wrote it, or the LLM's.

    Raises:
        ModelError: the config does not say it.
    """
    text = config.get("text_config") or {}
    size = config.get(HIDDEN) or text.get("hidden_size")
    if size is None and config.get("text_config") is not None:
        size = AutoConfig.for_model(**{"model_type": "llama", **text}).hidden_size  # published files leave defaults out
    if not isinstance(size, int):
        raise ModelError(f"config.json says neither {HIDDEN} nor the language model's hidden_size")
    return size

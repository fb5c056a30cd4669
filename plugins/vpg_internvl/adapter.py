"""InternVL's ViT, pixel shuffle and the first layer of its MLP, on transformers' own vision class.

One tile a picture. The patches of a square of 2 x 2 become one vector, which ``linear_2(act(linear_1(norm(vector))))``
maps to a soft prompt. `norm`, `linear_1` and the activation belong to the VPG, and norm and `linear_1` are what stage 2
trains of it; `linear_2` is the linear projector that the core owns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLVisionModel

from vpg_internvl.names import LAYER, NORM, PROJECTOR, TEXT_TYPE, TOWER
from vpg_internvl.preprocessing import MEAN, STD, preprocessing_of
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.vpg.mlp import hidden_size, read_last_layer, with_units
from vpgtrans_core.weights import Weights, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

LOADING_CODE = """from transformers import AutoProcessor, InternVLForConditionalGeneration
from PIL import Image

processor = AutoProcessor.from_pretrained("{folder}")
model = InternVLForConditionalGeneration.from_pretrained("{folder}")
prompt = processor.apply_chat_template([dict(role="user", content=[dict(type="image")])], add_generation_prompt=True)
inputs = processor(images=Image.open("picture.png"), text=prompt, add_special_tokens=False, return_tensors="pt")
said = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
print(processor.batch_decode(said, skip_special_tokens=True))
"""
DEFAULTS = {
    "downsample_ratio": 0.5,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
"""Fields of InternVL's config that say how the VPG computes, and what they are where a config leaves them out."""


class InternVLVPG(VPG):
    """A ViT, a pixel shuffle and the first layer of an MLP. Parameters carry the names of InternVL's files.

    Args:
        config: the contents of a config.json, InternVL's or that of a folder of ours.
        preprocessing: how images become pixels; by default the family's at the ViT's image size.

    Attributes:
        vision: the ViT's config.
        settings: how it computes, under the names of InternVL's config.
    """

    loading_code = LOADING_CODE

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.vision = vision_config(config)
        self.settings = {name: config.get(name, value) for name, value in DEFAULTS.items()}
        self.output_size = hidden_size(config, TEXT_TYPE)
        size, side = image_size(self.vision), grid(self.vision)
        factor = round(1 / float(self.settings["downsample_ratio"]))
        if side % factor:
            raise ModelError(f"a grid of {side} x {side} patches cannot be shuffled by {factor}")
        width = self.vision.hidden_size * factor**2
        self.num_prompts = (side // factor) ** 2
        self.feature_shape = (self.num_prompts, width)
        self.preprocessing = preprocessing or Preprocessing(size=size, mean=MEAN, std=STD)
        self.vision_tower = InternVLVisionModel._from_config(self.vision)
        self.multi_modal_projector = nn.ModuleDict(
            {"layer_norm": nn.LayerNorm(width), "linear_1": nn.Linear(width, self.output_size)}
        )
        self.act = ACT2FN[self.settings["projector_hidden_act"]]
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> InternVLVPG:
        """A VPG with random weights.

        Raises:
            ModelError: the config describes no ViT of this family.
        """
        try:
            return cls(config, preprocessing)
        except ModelError:
            raise
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no InternVL: {type(error).__name__}: {error}") from error

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> InternVLVPG:
        config = read_json(Path(folder) / "config.json")
        vpg = cls.from_config(config, preprocessing_of(folder, image_size(vision_config(config))))
        weights = Weights(folder)
        tensors = {}
        for name in weights:
            if name.startswith((TOWER, NORM)):
                tensors[name] = weights.read(name)
            elif name.startswith(LAYER):  # units beyond ours fill the folder up to the LLM's width
                tensors[name] = weights.read(name)[: vpg.output_size]
        load_strict(
            vpg, tensors, folder, dtype=lambda n: dtype if n.startswith(TOWER) else torch.float32, device=device
        )
        return vpg.eval()

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        return read_last_layer(folder, PROJECTOR, TEXT_TYPE)

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.preprocessing.size)

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

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith((NORM, LAYER)))

    def train(self, mode: bool = True) -> InternVLVPG:
        """The frozen ViT stays in evaluation mode."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    @classmethod
    def why_not_whole(cls, llm: PreTrainedConfig) -> str | None:
        from vpg_internvl.folder import why_not_whole

        return why_not_whole(llm)

    @classmethod
    def widest(cls, embedding_size: int) -> int:
        return embedding_size

    def keep_outputs(self, units: Tensor) -> None:
        self.multi_modal_projector["linear_1"] = with_units(
            cast(nn.Linear, self.multi_modal_projector["linear_1"]), units
        )
        self.output_size = len(units)

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_internvl.folder import save_internvl

        save_internvl(Path(folder), self, projector, llm, llm_reference)

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        from vpg_internvl.folder import check_internvl

        check_internvl(Path(folder), self, projector, llm, llm_reference)

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        from vpg_internvl.folder import save_part

        save_part(Path(folder), self, projector, references)


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

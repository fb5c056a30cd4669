"""CLIP's ViT without its last block, and the first layer of LLaVA's MLP.

LLaVA maps each patch by ``linear_2(gelu(linear_1(patch)))``. `linear_1` and the GELU are the VPG's trained part here,
`linear_2` is the linear projector that vpgt owns and starts anew for another language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig

from vpg_clip_mlp import PART
from vpgtrans_core.errors import ModelError, VpgtError
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.weights import Weights, load_strict, read_json, save_tensors, write_json

TOWER = "vision_tower."
TRAINED = "multi_modal_projector.linear_1."
PROJECTOR = "multi_modal_projector.linear_2."
LAYER = -2
"""The hidden states that LLaVA reads: those before the ViT's last block."""


class ClipMLP(VPG):
    """One soft prompt for each patch. Parameters carry the names of ``LlavaForConditionalGeneration``'s files.

    Args:
        vision: the ViT's config.
        output_size: width of the MLP's hidden layer.
    """

    def __init__(self, vision: CLIPVisionConfig, output_size: int) -> None:
        super().__init__()
        self.vision = vision
        self.num_prompts, self.output_size = (vision.image_size // vision.patch_size) ** 2, output_size
        self.feature_shape = (self.num_prompts, vision.hidden_size)
        self.preprocessing = Preprocessing(size=vision.image_size)
        self.vision_tower = CLIPVisionModel(vision)
        self.multi_modal_projector = nn.ModuleDict({"linear_1": nn.Linear(vision.hidden_size, output_size)})
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ClipMLP:
        """A VPG with random weights from the contents of a config.json: LLaVA's, or that of a folder of ours."""
        try:
            vision = CLIPVisionConfig(**config["vision_config"])
            output_size = config.get("output_size") or LlavaConfig(**config).text_config.hidden_size
            return cls(vision, output_size)
        except Exception as error:  # transformers checks its configs with many kinds of error
            raise ModelError(f"config.json describes no CLIP ViT and MLP: {error}") from error

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ClipMLP:
        vpg, weights = cls.from_config(read_json(Path(folder) / "config.json")), Weights(folder)
        inside = "vision_model." if any(n.startswith(f"{TOWER}vision_model.") for n in vpg.state_dict()) else ""
        tensors = {}
        for name in weights:
            if name.startswith((TOWER, TRAINED)):
                own = name.replace(f"{TOWER}vision_model.", TOWER + inside)  # transformers 5 dropped a level of names
                tensors[own] = weights.read(name)
        load_strict(
            vpg, tensors, folder, dtype=lambda n: dtype if n.startswith(TOWER) else torch.float32, device=device
        )
        return vpg.eval()

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights = Weights(folder)
        if PROJECTOR + "weight" not in weights:
            return None
        return weights.read(PROJECTOR + "weight").float(), weights.read(PROJECTOR + "bias").float()

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        with torch.device("meta"):
            vpg = cls.from_config(config)
        return vpg.facts(vpg.vision.image_size)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to patches ``[B, N, C]``, without the class token."""
        pixels = pixels.to(next(self.vision_tower.parameters()).dtype)
        return self.vision_tower(pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:]

    def prompts(self, features: Tensor) -> Tensor:
        linear = self.multi_modal_projector["linear_1"]
        return nn.functional.gelu(linear(features.to(linear.weight.dtype))).float()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if name.startswith(TRAINED))

    def train(self, mode: bool = True) -> ClipMLP:
        super().train(mode)
        self.vision_tower.eval()
        return self

    def save_model(self, folder: Path, projector: nn.Linear, llm: Any, *, llm_reference: dict[str, Any]) -> None:
        raise VpgtError("this plugin writes no whole VL-LLM", "save with --save vpg")

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(self.state_dict())
        if projector is not None:
            tensors |= {PROJECTOR + name: value.float() for name, value in projector.state_dict().items()}
        save_tensors(folder / "vpg.safetensors", tensors)
        write_json(folder / "references.json", references)
        config = {"model_type": PART, "vision_config": self.vision.to_dict(), "output_size": self.output_size}
        write_json(folder / "config.json", config)

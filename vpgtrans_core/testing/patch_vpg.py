"""The smallest VPG that there can be: patches of the image, each mapped to one soft prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import VpgtError
from vpgtrans_core.files import REFERENCES
from vpgtrans_core.testing.kit_vpg import MODEL_TYPE
from vpgtrans_core.vpg.adapter import VPG, Preprocessing
from vpgtrans_core.weights import Weights, load_strict, save_tensors, write_json

SIZE, PATCH, WIDTH = 16, 8, 12


class PatchVPG(VPG):
    """Four patches of a picture of 16 pixels: frozen `patches` to features ``[B, 4, 12]``, then a trained `mix`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_prompts, self.output_size = (SIZE // PATCH) ** 2, WIDTH
        self.feature_shape = (self.num_prompts, WIDTH)
        self.preprocessing = Preprocessing(size=SIZE)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> PatchVPG:
        vpg, weights = cls(), Weights(folder)
        tensors = {name: weights.read(name) for name in weights if not name.startswith("projector.")}
        load_strict(vpg, tensors, folder, dtype=lambda n: dtype if "patches" in n else torch.float32, device=device)
        return vpg

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        weights = Weights(folder)
        return weights.read("projector.weight"), weights.read("projector.bias")

    @classmethod
    def describe(cls, config: dict[str, Any]) -> dict[str, Any]:
        vpg = cls()
        sizes = {"frozen": 3 * WIDTH * PATCH**2 + WIDTH, "trained": WIDTH * WIDTH + WIDTH}
        shapes = {"num_prompts": vpg.num_prompts, "output_size": WIDTH, "feature_shape": vpg.feature_shape}
        return {**shapes, "image_size": SIZE, **sizes}

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        return self.patches(pixels.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)

    def prompts(self, features: Tensor) -> Tensor:
        return self.mix(features.float()).float()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((f"mix.{name}", parameter) for name, parameter in self.mix.named_parameters())

    def save_model(self, folder: Path, projector: nn.Linear, llm: Any, *, llm_reference: dict[str, Any]) -> None:
        raise VpgtError("the kit's VPG can only be saved without its LLM", "save with --save vpg")

    def save_part(self, folder: Path, projector: nn.Linear | None, *, references: dict[str, Any]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tensors = dict(self.state_dict())
        tensors |= {f"projector.{n}": v for n, v in projector.state_dict().items()} if projector is not None else {}
        save_tensors(Path(folder) / "vpg.safetensors", tensors)
        write_json(Path(folder) / REFERENCES, references)
        write_json(Path(folder) / "config.json", {"model_type": MODEL_TYPE})

"""A Q-Former in front of any vision tower of transformers: CLIP's, SigLIP's, a ViT, DINOv2, a convolutional network.

The tower is frozen whole, and a norm of ours stands after it. BLIP-2's own folder has no place for such towers, so
these VPGs are saved as folders of ours (``--save vpg``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.config import TOWER_PART, Sizes, preprocessing_of, read_config, sizes_of
from vpg_qformer.reading import is_frozen, read_vpg
from vpgtrans_core.errors import ModelError, VpgtError
from vpgtrans_core.weights import Weights, load_strict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

__all__ = ["TOWER_PART", "Tower", "TowerSizes", "TowerVPG", "read_tower"]
UNUSED = ("pooler", "head")
"""What some towers compute of their last layer for themselves; the Q-Former reads the layer."""


class Tower(nn.Module):
    """A vision tower, and the norm after it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        from transformers import AutoModel

        self.tower = AutoModel.from_config(config)
        for name in UNUSED:
            part = getattr(self.tower, name, None)
            if isinstance(part, nn.Module) and any(True for _ in part.parameters()):
                setattr(self.tower, name, None)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the tower's last layer ``[B, N, C]``; a convolutional network's map
        ``[B, C, h, w]`` is read place by place."""
        states = self.tower(pixel_values=pixels).last_hidden_state
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


@dataclass(frozen=True)
class TowerSizes(Sizes):
    """A tower + Q-Former in transformers' own configs."""

    @cached_property
    def feature_shape(self) -> tuple[int, int]:  # type: ignore[override]
        """``(N, C)``: what a pass that computes nothing says."""
        with torch.device("meta"):
            made = Tower(self.vision)(torch.empty(1, 3, self.vision.image_size, self.vision.image_size))
        return int(made.shape[1]), int(made.shape[2])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "vision_config": self.vision.to_diff_dict() | {"model_type": self.kind}}

    @property
    def kind(self) -> str:
        return str(self.vision.model_type)

    def vision_model(self) -> Tower:  # type: ignore[override]
        return Tower(self.vision)


class TowerVPG(QFormerVPG):
    """A vision tower of transformers, a norm, and a Q-Former that asks it with query tokens."""

    loading_code = ""
    formats: ClassVar[dict[str, str]] = {}
    model_type = TOWER_PART

    @classmethod
    def load(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> TowerVPG:
        """As every VPG; towers have tables that no file holds, so that an empty one could not be filled."""
        sizes = sizes_of(read_config(folder))
        vpg = cls(sizes, preprocessing_of(folder, sizes))
        tensors = read_vpg(folder, vpg)
        load_strict(vpg, tensors, folder, dtype=lambda n: dtype if is_frozen(n) else torch.float32, device=device)
        vpg.folder = Path(folder)
        return vpg.to(device)

    @classmethod
    def load_lazily(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> TowerVPG:
        return cls.load(folder, dtype=dtype, device=device)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to the tower's last layer ``[B, N, C]``, in the tower's dtype."""
        kind = "cuda" if pixels.is_cuda else "cpu"
        with torch.autocast(kind, enabled=False):
            return self.vision_model(pixels.to(next(self.vision_model.tower.parameters()).dtype))

    def save_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        raise VpgtError(
            "transformers has no class for a Q-Former in front of this vision tower", "give --save vpg or --to vpg"
        )

    def check_model(self, folder: Path, projector: nn.Linear, llm: LLM, *, llm_reference: dict[str, Any]) -> None:
        self.save_model(folder, projector, llm, llm_reference=llm_reference)

    def prepare_endpoint(self, folder: Path, ends: Sequence[int]) -> None:
        return None


def read_tower(folder: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    """The weights of the vision tower in a model's folder, by their names in `TowerVPG`.

    Raises:
        ModelError: they are not in safetensors, or some are missing.
    """
    from transformers import AutoModel

    weights = Weights(folder)
    if not any(Path(folder).glob("*.safetensors")):
        raise ModelError(f"{folder} has its {len(weights)} tensors in pickles", "save it as safetensors first")
    model, report = AutoModel.from_pretrained(
        str(folder), config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(name for name in report["missing_keys"] if name.split(".")[0] not in UNUSED)
    if missing:
        raise ModelError(f"{folder} lacks weights of its vision tower: {', '.join(missing[:8])}")
    tensors = {name: value for name, value in model.state_dict().items() if name.split(".")[0] not in UNUSED}
    return {f"vision_model.tower.{name}": value for name, value in tensors.items()}

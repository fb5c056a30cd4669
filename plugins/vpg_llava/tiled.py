"""LLaVA-NeXT's and LLaVA-OneVision's VPG: LLaVA's on tiles, and a soft prompt that ends each row.

The published models learn the latter in the LLM's space. Here it is one of the VPG's outputs, so that it comes to
another LLM by the projector like all others, and stage 2 trains it with the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vpg_llava.adapter import LlavaVPG
from vpg_llava.anyres import AnyRes, anyres_of
from vpg_llava.classes import CLASSES
from vpg_llava.names import NEXT, NEXT_PART, ONEVISION, ONEVISION_PART
from vpgtrans_core.data.tiles import Tiles
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import loading_code
from vpgtrans_core.vpg.separators import outputs_for

if TYPE_CHECKING:
    from vpgtrans_core.weights import Weights

NEWLINE = "image_newline"


class LlavaNextVPG(LlavaVPG):
    """LLaVA's VPG on the tiles of a picture. Parameters carry the names of LLaVA-NeXT's files.

    Attributes:
        image_newline: ``[D]``, the output that ends a row.
    """

    loading_code = loading_code("LlavaNextForConditionalGeneration")
    what = "LLaVA-NeXT"
    whole = CLASSES[NEXT]
    part = NEXT_PART
    defaults: ClassVar[dict[str, Any]] = {
        **LlavaVPG.defaults,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    }

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        size = self.vision.image_size
        if any(side % size for resolution in self.settings["image_grid_pinpoints"] for side in resolution):
            raise ModelError(f"resolutions {self.settings['image_grid_pinpoints']} are not made of tiles of {size} px")
        if self.pictures.side**2 != self.num_prompts:
            raise ModelError(
                f"{self.num_prompts} soft prompts of a tile are no square",
                "a ViT with a class token is read with vision_feature_select_strategy default",
            )
        self.image_newline = nn.Parameter(torch.zeros(self.output_size), requires_grad=False)

    @property
    def pictures(self) -> AnyRes:
        """How pictures become tiles."""
        assert isinstance(self.preprocessing, AnyRes)
        return self.preprocessing

    def plain_preprocessing(self) -> AnyRes:
        resolutions = tuple((high, wide) for high, wide in self.settings["image_grid_pinpoints"])
        side, most = round(self.num_prompts**0.5), self.settings.get("vision_aspect_ratio")
        tiles = None if most is None else int(str(most).removeprefix("anyres_max_"))
        return AnyRes(size=self.vision.image_size, side=side, resolutions=resolutions, most=tiles)

    def preprocessing_of(self, folder: Path) -> AnyRes:
        return anyres_of(folder, self.plain_preprocessing())

    def arrange(self, outputs: Tiles) -> Sequence[Tensor]:
        return [self._arranged(tiles, *size) for tiles, size in zip(outputs.each, outputs.sizes, strict=True)]

    def _arranged(self, tiles: Tensor, width: int, height: int) -> Tensor:
        """The outputs of one picture ``[n, D]`` from those of its tiles ``[T, Q, D]``."""
        field, side, size = self.pictures.field(width, height), self.pictures.side, tiles.shape[-1]
        rows = tiles[1:].view(field.high, field.wide, side, side, size).transpose(1, 2)
        rows = rows.reshape(field.high * side, field.wide * side, size)
        rows = rows[field.top : field.top + field.rows, field.left : field.left + field.columns]
        if field.shrunk is not None:
            shrunk = nn.functional.interpolate(rows.permute(2, 0, 1)[None], field.shrunk, mode="bilinear")
            rows = shrunk[0].permute(1, 2, 0)
        ends = self.image_newline.to(rows.dtype).expand(len(rows), 1, size)
        return torch.cat((tiles[0], torch.cat((rows, ends), dim=1).flatten(0, 1)))

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from super().trained()
        yield NEWLINE, self.image_newline

    def keep_outputs(self, units: Tensor) -> None:
        super().keep_outputs(units)
        kept = self.image_newline.detach()[units.to(self.image_newline.device)]
        self.image_newline = nn.Parameter(kept.clone(), requires_grad=False)

    def read_tensors(self, folder: Path, weights: Weights) -> dict[str, Tensor]:
        tensors = super().read_tensors(folder, weights)
        if NEWLINE not in weights:
            return tensors
        newline = weights.read(NEWLINE).float()
        if read_json(folder / "config.json").get("model_type") != self.part:  # it is in the LLM's space
            projector = self.load_projector(folder)
            if projector is None:
                raise ModelError(f"{folder} has no projector, and {NEWLINE} cannot be read without it")
            (newline,) = outputs_for(newline[None], *projector)
        return {**tensors, NEWLINE: newline}

    def whole_tensors(self, projector: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
        """LLaVA's, and the soft prompt that ends a row, in the LLM's space."""
        with torch.no_grad():
            newline = projector(self.image_newline.to(projector.weight)).float()
        return {**super().whole_tensors(projector, dtype), NEWLINE: newline}


class LlavaOnevisionVPG(LlavaNextVPG):
    """The same with OneVision's resolutions, and a limit of how many soft prompts a picture has."""

    loading_code = loading_code("LlavaOnevisionForConditionalGeneration", torchvision=True)
    what = "LLaVA-OneVision"
    whole = CLASSES[ONEVISION]
    part = ONEVISION_PART
    defaults: ClassVar[dict[str, Any]] = {
        **LlavaNextVPG.defaults,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)],
        "vision_aspect_ratio": "anyres_max_9",
    }

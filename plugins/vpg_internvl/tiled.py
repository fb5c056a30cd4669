"""InternVL's pictures in tiles: as many as fit their shape, then the whole picture once more as a square.

Two tokens of the family's stand around a picture. Each is one of the VPG's outputs here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from vpg_internvl.adapter import InternVLVPG
from vpg_internvl.classes import save_tiles_processor, tiles_image_processor
from vpg_internvl.preprocessing import MEAN, STD
from vpgtrans_core.data.preprocessing import squares
from vpgtrans_core.data.tiles import Tiles
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values, loading_code
from vpgtrans_core.vpg.separators import SeparatedVPG

BEGIN, END = "<img>", "</img>"


@dataclass(frozen=True)
class Dynamic(Preprocessing):
    """The family's: a picture is stretched to the grid of tiles whose shape is nearest to its own.

    Attributes:
        prompts: soft prompts of a tile.
        fewest, most: tiles of the grid.
    """

    tiled: ClassVar[bool] = True
    whole: ClassVar[int] = -1
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    prompts: int = 256
    fewest: int = 1
    most: int = 12

    def tiles(self, image: Image.Image) -> list[Image.Image]:
        columns, rows = self.grid(*image.size)
        size = columns * self.size, rows * self.size
        tiles = squares(image.resize(size, Image.Resampling.BICUBIC), self.size)
        return [*tiles, self.fit(image)] if len(tiles) > 1 else tiles

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles."""
        if self.most == 1:
            return 1, 1
        columns, rows = get_optimal_tiled_canvas((height, width), (self.size, self.size), self.fewest, self.most)
        return columns, rows

    def count(self, width: int, height: int) -> int:
        tiles = math.prod(self.grid(width, height))
        return tiles + 1 if tiles > 1 else 1

    def runs(self, width: int, height: int) -> Sequence[int | str]:
        return (self.count(width, height) * self.prompts + len((BEGIN, END)),)

    @property
    def most_prompts(self) -> int:
        return (self.most + (self.most > 1)) * self.prompts + len((BEGIN, END))


class TiledInternVLVPG(SeparatedVPG, InternVLVPG):
    """A ViT, a pixel shuffle and the first layer of an MLP for each tile of a picture."""

    loading_code = loading_code("InternVLForConditionalGeneration", torchvision=True)
    defaults: ClassVar[dict[str, Any]] = {**InternVLVPG.defaults, "tiles": True}

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.settings["tiles"] = True
        self.separated((BEGIN, END))

    def plain_preprocessing(self) -> Dynamic:
        plain = super().plain_preprocessing()
        return Dynamic(size=plain.size, prompts=self.num_prompts)

    def preprocessing_of(self, folder: Path) -> Dynamic:
        plain, values = super().preprocessing_of(folder), image_processor_values(folder)[1]
        fewest, most = values.get("min_patches", 1), values.get("max_patches", 12)
        return Dynamic(plain.size, plain.mean, plain.std, self.num_prompts, fewest, most)

    def image_processor(self) -> Any:
        assert isinstance(self.preprocessing, Dynamic)
        return tiles_image_processor(self.preprocessing)

    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str) -> None:
        save_tiles_processor(folder, self, tokenizer, chat_template)

    def arrange(self, outputs: Tiles) -> Sequence[Tensor]:
        begin, end = self.separators.to(outputs.values.dtype).split(1)
        return [torch.cat((begin, tiles.flatten(0, 1), end)) for tiles in outputs.each]

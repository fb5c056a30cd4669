"""Idefics3's pictures in tiles: rows of squares of the larger picture, then the whole picture as a square.

Tokens of the family's stand before each tile: one that begins it, and one that names its row and column, or the whole
picture. Each is one of the VPG's outputs here. Rows end with a line break, which is a word of the LLM.
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

from vpg_idefics3.adapter import Idefics3VPG
from vpg_idefics3.classes import tiles_processor
from vpg_idefics3.preprocessing import Shrunk
from vpgtrans_core.data.preprocessing import squares
from vpgtrans_core.data.tiles import Tiles
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values
from vpgtrans_core.vpg.separators import SeparatedVPG

BEGIN, WHOLE = "<fake_token_around_image>", "<global-img>"
MOST_SIDE = 6
"""Tiles on a side for which the family has tokens."""
MARKS = 2
"""Tokens before a tile."""


@dataclass(frozen=True)
class Split(Shrunk):
    """The family's: the longer side is resized to `longest`, both are stretched to whole tiles, and cut.

    Attributes:
        prompts: soft prompts of a tile.
    """

    tiled: ClassVar[bool] = True
    whole: ClassVar[int] = -1
    prompts: int = 64

    def tiles(self, image: Image.Image) -> list[Image.Image]:
        rows, columns = self.grid(*image.size)
        larger = image.resize(self.shrunk(*image.size), Image.Resampling.LANCZOS)
        if not rows:
            return [self.square(larger)]
        larger = larger.resize((columns * self.size, rows * self.size), Image.Resampling.LANCZOS)
        return [*squares(larger, self.size), self.square(larger)]

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles besides the whole picture; none where that is one tile already."""
        width, height = self.shrunk(width, height)
        shape = width / height
        if width >= height:
            columns = math.ceil(width / self.size)
            rows = math.ceil(int(columns * self.size / shape) / self.size)
        else:
            rows = math.ceil(height / self.size)
            columns = math.ceil(int(rows * self.size * shape) / self.size)
        return (0, 0) if rows == columns == 1 else (rows, columns)

    @property
    def side(self) -> int:
        """The most rows and columns that a picture has."""
        return max(self.grid(1, 1))

    def count(self, width: int, height: int) -> int:
        return math.prod(self.grid(width, height)) + 1

    def runs(self, width: int, height: int) -> Sequence[int | str]:
        rows, columns = self.grid(width, height)
        tile = self.prompts + MARKS
        ends = ["\n"] * (rows - 1) + ["\n\n"] * bool(rows)
        return (*(run for end in ends for run in (columns * tile, end)), tile + 1)

    @property
    def most_prompts(self) -> int:
        tiles, rows = self.side**2 + 1, self.side + 1
        return tiles * (self.prompts + MARKS) + rows + 1


class TiledIdefics3VPG(SeparatedVPG, Idefics3VPG):
    """A ViT and a pixel shuffle for each tile of a picture."""

    defaults: ClassVar[dict[str, Any]] = {**Idefics3VPG.defaults, "tiles": True, "longest_edge": None}

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.settings["tiles"] = True
        side = self.split.side
        if side > MOST_SIDE:
            raise ModelError(
                f"pictures of {self.split.longest} px have {side} x {side} tiles of {self.image_size} px, and the "
                f"family has tokens for {MOST_SIDE} x {MOST_SIDE}",
                "leave --tiles out: each picture is then one tile",
            )
        places = [f"<row_{row}_col_{column}>" for row in range(1, side + 1) for column in range(1, side + 1)]
        self.separated((BEGIN, WHOLE, *places))

    @property
    def split(self) -> Split:
        """How pictures become tiles."""
        assert isinstance(self.preprocessing, Split)
        return self.preprocessing

    def plain_preprocessing(self) -> Split:
        longest = self.settings["longest_edge"] or 4 * self.image_size
        return Split(size=self.image_size, longest=longest, prompts=self.num_prompts)

    @classmethod
    def config_of(cls, folder: Path) -> dict[str, Any]:
        """The folder's config, with the longest side that its image processor says."""
        longest = (image_processor_values(folder)[1].get("size") or {}).get("longest_edge")
        config = super().config_of(folder)
        return {**config, "longest_edge": longest} if longest else config

    def preprocessing_of(self, folder: Path) -> Split:
        plain = super().preprocessing_of(folder)
        return Split(plain.size, plain.mean, plain.std, plain.longest, self.num_prompts)

    def save_processor(self, folder: Path, tokenizer: Any, chat_template: str) -> None:
        tiles_processor(self, tokenizer, chat_template).save_pretrained(folder)

    def arrange(self, outputs: Tiles) -> Sequence[Tensor]:
        return [self._arranged(tiles, *size) for tiles, size in zip(outputs.each, outputs.sizes, strict=True)]

    def _arranged(self, tiles: Tensor, width: int, height: int) -> Tensor:
        """The outputs of one picture ``[n, D]`` from those of its tiles ``[T, Q, D]``."""
        rows, columns = self.split.grid(width, height)
        side, size = self.split.side, tiles.shape[-1]
        begin, whole, places = self.separators.to(tiles.dtype).split([1, 1, side**2])
        named = places.view(side, side, size)[:rows, :columns].reshape(-1, 1, size)
        names = torch.cat((named, whole[None]))
        begins = begin.expand(len(tiles), 1, -1)
        return torch.cat((torch.cat((begins, names, tiles), dim=1).flatten(0, 1), begin))

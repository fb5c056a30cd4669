"""LLaVA-NeXT's and LLaVA-OneVision's pictures: the whole as a square, and once more, larger and in tiles.

The larger picture keeps its shape: it is padded to the best of some resolutions. What the ViT makes of the padding is
left out, and each row of what remains ends with a soft prompt that says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from vpgtrans_core.data.preprocessing import squares
from vpgtrans_core.errors import ModelError
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import image_processor_values

SHRINKS_ABOVE = 1.1
"""OneVision shrinks the field of a picture whose side is so much too large."""


@dataclass(frozen=True)
class Field:
    """The soft prompts of a picture's tiles as one field of rows.

    Attributes:
        high, wide: tiles.
        top, left: rows and columns of padding on each side, which are left out.
        rows, columns: of what remains.
        shrunk: rows and columns to which that is shrunk; None for those.
    """

    high: int
    wide: int
    top: int
    left: int
    rows: int
    columns: int
    shrunk: tuple[int, int] | None

    @property
    def prompts(self) -> int:
        """Soft prompts, with the one that ends each row."""
        rows, columns = self.shrunk or (self.rows, self.columns)
        return rows * (columns + 1)


@dataclass(frozen=True)
class AnyRes(Preprocessing):
    """The whole picture as a square, then its tiles row by row.

    Attributes:
        side: soft prompts on one side of a tile.
        resolutions: height and width of the larger pictures to choose from, in pixels.
        most: OneVision's: how many tiles' soft prompts the larger picture may have; None without a limit.
    """

    tiled: ClassVar[bool] = True
    side: int = 24
    resolutions: tuple[tuple[int, int], ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
    most: int | None = None

    def tiles(self, image: Image.Image) -> list[Image.Image]:
        height, width = self._resolution(*image.size)
        size = _inside(image.size, (width, height))
        corner = (width - size[0]) // 2, (height - size[1]) // 2
        larger = Image.new("RGB", (width, height))
        larger.paste(image.resize(size, Image.Resampling.BICUBIC), corner)
        return [self.fit(image), *squares(larger, self.size)]

    def count(self, width: int, height: int) -> int:
        field = self.field(width, height)
        return 1 + field.high * field.wide

    def runs(self, width: int, height: int) -> Sequence[int | str]:
        return (self.side**2 + self.field(width, height).prompts,)

    @property
    def most_prompts(self) -> int:
        limit = math.inf if self.most is None else SHRINKS_ABOVE**2 * self.most * self.side**2
        sides = (
            (height // self.size * self.side, width // self.size * self.side) for height, width in self.resolutions
        )
        return self.side**2 + max(int(min(rows * columns, limit)) + rows for rows, columns in sides)

    def field(self, width: int, height: int) -> Field:
        """The field of a picture of this size, as transformers' classes compute it."""
        resolution = self._resolution(width, height)
        high, wide = (side // self.size for side in resolution)
        rows, columns = high * self.side, wide * self.side
        top = left = 0
        if width / height > columns / rows:
            top = (rows - int(round(height * (columns / width), 7))) // 2
        else:
            left = (columns - int(round(width * (rows / height), 7))) // 2
        rows, columns = rows - 2 * top, columns - 2 * left
        shrunk = None
        if self.most is not None:
            ratio = math.sqrt(rows * columns / (self.most * self.side**2))
            shrunk = (int(rows // ratio), int(columns // ratio)) if ratio > SHRINKS_ABOVE else None
        return Field(high, wide, top, left, rows, columns, shrunk)

    def _resolution(self, width: int, height: int) -> tuple[int, int]:
        best: tuple[int, int] = select_best_resolution((height, width), list(self.resolutions))
        return best


def _inside(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape inside `room`, width and height."""
    (width, height), (most_wide, most_high) = size, room
    wide, high = most_wide / width, most_high / height
    if wide < high:
        return most_wide, min(math.ceil(height * wide), most_high)
    return min(math.ceil(width * high), most_wide), most_high


def anyres_of(folder: str | Path, plain: AnyRes) -> AnyRes:
    """`plain`, with what a folder's image processor says.

    Raises:
        ModelError: it makes other pictures than the class reads.
    """
    path, values = image_processor_values(folder)
    sides = set((values.get("size") or {}).values()) | set((values.get("crop_size") or {}).values())
    own = values.get("image_grid_pinpoints")
    resolutions = plain.resolutions if own is None else tuple((high, wide) for high, wide in own)
    other = set(resolutions) != set(plain.resolutions)
    if sides - {plain.size, None} or other or values.get("resample", 3) != 3 or values.get("do_pad") is False:
        raise ModelError(
            f"{path} asks for pictures that the model's class does not read (size {values.get('size')}, crop "
            f"{values.get('crop_size')}, resample {values.get('resample')}, resolutions {own})",
            f"bicubic tiles of {plain.size} px, at the resolutions of config.json, are supported",
        )
    mean, std = (tuple(values.get(name) or default) for name, default in _colours(plain))
    return AnyRes(plain.size, mean, std, plain.side, plain.resolutions, plain.most)


def _colours(plain: AnyRes) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("image_mean", plain.mean), ("image_std", plain.std)

"""Pictures that are cut into tiles, as many as fit their shape: what is held of several pictures at once.

Where every picture has as many rows as any other, a plain tensor ``[I, ...]`` holds them. `Tiles` stands beside that
tensor wherever pictures travel together, and is cut, joined and moved as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """The tiles of I pictures.

    Attributes:
        values: ``[T, ...]``, pixels, features or outputs of the tiles of the first picture, of the second, and so on.
        counts: how many tiles each picture has.
        sizes: width and height of each picture, in pixels, before it was cut.
    """

    values: Tensor
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if len(self.values) != sum(self.counts) or len(self.counts) != len(self.sizes):
            raise ValueError(f"{len(self.values)} tiles, {self.counts} counted, of {len(self.sizes)} pictures")

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, part: slice | int) -> Tiles:
        """Some of the pictures, one after the other, or one of them."""
        start, stop, _ = (slice(part, part + 1) if isinstance(part, int) else part).indices(len(self))
        if isinstance(part, int) and not 0 <= part < len(self):
            raise IndexError(part)
        ends = [0, *accumulate(self.counts)]
        stop = max(start, stop)
        return Tiles(self.values[ends[start] : ends[stop]], self.counts[start:stop], self.sizes[start:stop])

    def __iter__(self) -> Iterator[Tiles]:
        return (self[n] for n in range(len(self)))

    def change(self, change: Callable[[Tensor], Tensor]) -> Tiles:
        """The same tiles with other values."""
        return Tiles(change(self.values), self.counts, self.sizes)

    def to(self, *args: Any, **kwargs: Any) -> Tiles:
        return self.change(lambda values: values.to(*args, **kwargs))

    def cpu(self) -> Tiles:
        return self.change(Tensor.cpu)

    def float(self) -> Tiles:
        return self.change(Tensor.float)

    def pin_memory(self) -> Tiles:
        return self.change(Tensor.pin_memory)

    def clone(self) -> Tiles:
        return self.change(Tensor.clone)

    @property
    def each(self) -> tuple[Tensor, ...]:
        """The values of each picture's tiles."""
        return self.values.split(list(self.counts))


Visual = Tensor | Tiles
"""Something of several pictures: ``[I, ...]``, or their tiles."""


def joined(parts: Sequence[Visual]) -> Visual:
    """Several pictures of each part, as one."""
    tiles = [part for part in parts if isinstance(part, Tiles)]
    if len(tiles) < len(parts):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return Tiles(
        torch.cat([part.values for part in tiles]),
        tuple(count for part in tiles for count in part.counts),
        tuple(size for part in tiles for size in part.sizes),
    )


def stacked(pictures: Sequence[Visual]) -> Visual:
    """Pictures as one; each is a tensor ``[...]`` of its own, or the tiles of one picture."""
    if pictures and isinstance(pictures[0], Tiles):
        return joined(pictures)
    return torch.stack([picture for picture in pictures if isinstance(picture, Tensor)])


def changed(visual: Visual, change: Callable[[Tensor], Tensor]) -> Visual:
    """What `change` makes of the values, which are pictures or tiles one below the other."""
    return visual.change(change) if isinstance(visual, Tiles) else change(visual)


def whole_pictures(visual: Visual, place: int) -> Tensor:
    """Of each picture the tile that shows all of it, ``[I, ...]``: that at `place` of its tiles."""
    return torch.stack([tiles[place] for tiles in visual.each]) if isinstance(visual, Tiles) else visual

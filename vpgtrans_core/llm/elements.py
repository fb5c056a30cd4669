"""Texts as lines of elements, and the tables that such lines are written into.

An element is what stands at one position: a token, by its id, or a soft prompt, by a negative number that says which
one. So texts with images at any place are compared, sorted and merged as plain lists of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vpgtrans_core.llm.shown import Elements, Images, positions_of_some
from vpgtrans_core.llm.text import ImagePlace, Piece, Text, length


class Line(NamedTuple):
    """The elements of a text in order, and the places of those that are labelled."""

    elements: list[int]
    labels: list[int]

    def up_to_last_label(self) -> Line:
        """Without the elements that no label is predicted from or at."""
        return Line(self.elements[: self.labels[-1] + 1] if self.labels else [], self.labels)


def line_of(pieces: Sequence[Piece], images: Sequence[int], shown: Elements) -> Line:
    """Write pieces out; `images` are the numbers, in the batch, of the images of their sample, and `shown` says what
    stands in each one's place."""
    elements: list[int] = []
    labels: list[int] = []
    for piece in pieces:
        if isinstance(piece, ImagePlace):
            elements += shown.of(images[piece.index])
        else:
            if piece.labelled:
                labels += range(len(elements), len(elements) + len(piece.ids))
            elements += piece.ids
    return Line(elements, labels)


def images_of_samples(samples: int, counts: Sequence[int]) -> list[range]:
    """The numbers of each sample's images, of which there are as many as `counts` says; empty for one each."""
    if not counts:
        return [range(n, n + 1) for n in range(samples)]
    if len(counts) != samples:
        raise ValueError(f"{len(counts)} counts of images for {samples} samples")
    ranges, first = [], 0
    for count in counts:
        ranges.append(range(first, first + count))
        first += count
    return ranges


def lengths_of(texts: Sequence[Sequence[Text]], num_prompts: Images, counts: Sequence[int]) -> Iterator[int]:
    """How many positions each text takes; `counts` says how many images each sample has, empty for one each."""
    for sample, numbers in zip(texts, images_of_samples(len(texts), counts), strict=True):
        own = positions_of_some(num_prompts, numbers)
        yield from (length(text.pieces, own) for text in sample)


class Tables:
    """Tables ``[R, L]`` of the same rows, filled run by run from the left; what is not filled holds `fill`."""

    def __init__(self, rows: int, length: int, **fill: int) -> None:
        self.shape = (rows, length)
        self.used = [0] * rows
        self._tables = {name: [[value] * length for _ in range(rows)] for name, value in fill.items()}

    def write(self, row: int, **runs: Sequence[int]) -> int:
        """Append runs of one length to a row, one for each table; return the flat position ``r * L + l`` of their
        beginning."""
        start = self.used[row]
        for name, run in runs.items():
            self._tables[name][row][start : start + len(run)] = run
        self.used[row] = start + max(map(len, runs.values()))
        return row * self.shape[1] + start

    def tensor(self, name: str) -> Tensor:
        return torch.tensor(self._tables[name], dtype=torch.long).view(self.shape)

    def elements(self, name: str) -> dict[str, Tensor]:
        """A table of elements as token ids ``[R, L]`` (0 under soft prompts), the flat positions ``[S]`` of the soft
        prompts, and the number ``[S]`` of each in the batch."""
        table = self.tensor(name)
        flat = table.flatten()
        slots = (flat < 0).nonzero().flatten()
        return {"ids": table.clamp_min(0), "prompt_slots": slots, "prompt_sources": -1 - flat[slots]}

"""Which images a step holds: a pure function of (seed, step), so that a resumed run needs no loader state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 10_000
"""Images in one block of a mixture: within each the sources' shares are exact."""


class Draw(NamedTuple):
    """One image in a step: row `row` of source `source`, met for the `visit`-th time (from 0)."""

    source: int
    row: int
    visit: int


class Order:
    """The endless order of training images.

    Each source is gone through in a new permutation every epoch. Sources are mixed by their ratios in blocks of
    10,000 images, shuffled within the block. Steps follow each other without a gap, so that no image is dropped at
    the end of an epoch.

    Args:
        seed: any whole number not below 0.
        rows: the rows of each source that may be drawn, ``[n]`` each.
        ratios: the sampling ratio of each source (any scale); default their sizes, that is every image equally often.
        images_per_step: images of one step, over all processes.
        stream: a number that makes another order of the same seed (one a stage).
    """

    def __init__(
        self,
        seed: int,
        rows: Sequence[np.ndarray],
        ratios: Sequence[float] | None,
        images_per_step: int,
        stream: int = 0,
    ) -> None:
        if images_per_step < 1 or not rows or any(len(r) == 0 for r in rows):
            raise ValueError("every source needs images, and a step at least one")
        self.seed = seed
        self.stream = stream
        self.rows = [np.asarray(r) for r in rows]
        self.images_per_step = images_per_step
        self.quotas = _quotas(np.asarray(ratios if ratios else [len(r) for r in rows], dtype=np.float64))
        self._permutation = lru_cache(maxsize=2 * len(rows))(self._make_permutation)
        self._block = lru_cache(maxsize=2)(self._make_block)

    @property
    def images(self) -> int:
        """Images of all sources together: the length of one epoch."""
        return sum(len(r) for r in self.rows)

    def steps(self, epochs: float) -> int:
        """How many whole steps `epochs` hold, at least one (none for 0 epochs)."""
        return max(1, int(epochs * self.images / self.images_per_step + 1e-9)) if epochs > 0 else 0

    def step(self, step: int) -> list[Draw]:
        """The images of one step over all processes; a process takes ``[rank::world]`` of them."""
        start = step * self.images_per_step
        return [self._draw(position) for position in range(start, start + self.images_per_step)]

    def _draw(self, position: int) -> Draw:
        source, number = self._place(position)
        visit, within = divmod(number, len(self.rows[source]))
        return Draw(source, int(self.rows[source][self._permutation(source, visit)[within]]), visit)

    def _place(self, position: int) -> tuple[int, int]:
        """Of which source the image at this position is, and how many of that source came before it."""
        if len(self.rows) == 1:
            return 0, position
        block, within = divmod(position, BLOCK)
        sources, before = self._block(block)
        source = int(sources[within])
        return source, block * int(self.quotas[source]) + int(before[within])

    def _make_permutation(self, source: int, visit: int) -> np.ndarray:
        return np.random.default_rng([self.seed, self.stream, 1, source, visit]).permutation(len(self.rows[source]))

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each position of a block ``[BLOCK]``, and how many of it came before in the block."""
        sources = np.repeat(np.arange(len(self.quotas)), self.quotas)
        np.random.default_rng([self.seed, self.stream, 2, block]).shuffle(sources)
        before = np.zeros(BLOCK, dtype=np.int64)
        for source in range(len(self.quotas)):
            chosen = sources == source
            before[chosen] = np.arange(chosen.sum())
        return sources, before


class InOrder:
    """Every image once, in the order of the rows, on its first visit: for held-out losses and for filling caches."""

    def __init__(self, rows: Sequence[np.ndarray], images_per_step: int) -> None:
        self._draws = np.concatenate([np.stack([np.full(len(r), s), r], axis=1) for s, r in enumerate(rows)])
        self.images_per_step = images_per_step

    def __len__(self) -> int:
        return -(-len(self._draws) // self.images_per_step)

    def step(self, step: int) -> list[Draw]:
        start = step * self.images_per_step
        return [Draw(int(s), int(i), 0) for s, i in self._draws[start : start + self.images_per_step]]


def _quotas(ratios: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to BLOCK in these ratios (largest remainders), each at least one."""
    exact = ratios / ratios.sum() * BLOCK
    quotas = np.maximum(1, np.floor(exact)).astype(np.int64)
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    for source in by_remainder[: max(0, BLOCK - int(quotas.sum()))]:
        quotas[source] += 1
    quotas[np.argmax(quotas)] += BLOCK - quotas.sum()
    return quotas


def split(images: int, held_out: int, limit: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into training and held-out ones, both sorted; the same for the same number of images and seed.

    Args:
        images: number of rows.
        held_out: rows to hold out.
        limit: most rows to train on; a smaller limit gives a subset of a larger one's.
    """
    shuffled = np.random.default_rng([seed, 3]).permutation(images)
    train = shuffled[held_out:] if limit is None else shuffled[held_out : held_out + limit]
    return np.sort(train), np.sort(shuffled[:held_out])

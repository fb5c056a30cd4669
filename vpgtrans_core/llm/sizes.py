"""Sizes of rows: exact, or rounded up so that a run has few different ones.

A GPU's libraries choose kernels, and its allocator cuts memory, for each size anew; compiled code is checked for each.
A run whose rows have hundreds of sizes is slow until it has met most of them. Rounded up, a
number of rows grows by a sixteenth at most. Packing takes it into account: the positions of random
captions grow by 2 % for decoders and by 3 to 6 % for T5, and of 25 micro-batches with a shape each, 10 to 13 shapes
are left (`tests/llm/test_sizes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

MULTIPLE = 8
"""Rows have a multiple of so many positions: then the masks that attention reads on a GPU are in order as they are;
others are copied first, in every layer."""
STEPS = 16
"""Sizes between one and its double."""


@dataclass(frozen=True)
class Sizes:
    """Which sizes there are.

    Attributes:
        rounds: whether they are rounded up.
    """

    rounds: bool = False

    def count(self, number: int) -> int:
        """How many rows to compute, or positions at which to compute the head, where `number` are needed."""
        if not self.rounds:
            return number
        step = 1 << max(0, (number // STEPS).bit_length() - 1)
        return -(-number // step) * step

    def length(self, positions: int) -> int:
        """How long a row is in which `positions` are needed."""
        if not self.rounds or not positions:
            return positions
        return self.count(-(-positions // MULTIPLE)) * MULTIPLE


EXACT, ROUNDED = Sizes(), Sizes(rounds=True)

"""Packing of short sequences into rows of one length, so that little of a row is padding."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Sequence

from vpgtrans_core.llm.sizes import EXACT, Sizes

Size = tuple[int, ...]
"""The length of a sequence, in each of the dimensions in which a row is padded."""

LONGEST_ROW = 512
"""Rows are not filled beyond this length, unless a sequence is longer itself: others then fill up their rows to it."""
SEQUENCES_A_ROW = (1, 2, 3, 4, 6, 8, 12)
"""Sequences a row, on average, that are tried."""
OPEN_ROWS = 64
"""Rows that are looked at for a place; more would make packing quadratic and hardly tighter."""


def balance(sizes: Sequence[Size], rows: int) -> list[list[int]]:
    """Indices of `sizes` in at most `rows` rows of nearly equal length in every dimension.

    The largest sequence first, each into the row that it leaves shortest: of the `OPEN_ROWS` with most room, that whose
    fullest dimension, measured by what a row holds on average, is least full.
    """
    dimensions = range(len(sizes[0]) if sizes else 0)
    average = [max(1, sum(size[d] for size in sizes)) / rows for d in dimensions]
    parts = [[size[d] / average[d] for d in dimensions] for size in sizes]
    used = [[0.0] * len(dimensions) for _ in range(min(rows, len(sizes)))]
    members: list[list[int]] = [[] for _ in used]
    room = [(0.0, row) for row in range(len(used))]  # a heap of how full each row's fullest dimension is
    looked_at = OPEN_ROWS if len(dimensions) > 1 else 1
    for index in sorted(range(len(sizes)), key=lambda i: sum(parts[i]), reverse=True):
        open_rows = [heapq.heappop(room) for _ in range(min(len(room), looked_at))]
        filled = {row: list(map(operator.add, used[row], parts[index])) for _, row in open_rows}
        chosen = min(filled, key=lambda row: (max(filled[row]), row))
        used[chosen] = filled[chosen]
        members[chosen].append(index)
        for fullest, row in open_rows:
            heapq.heappush(room, (max(used[row]) if row == chosen else fullest, row))
    return [row for row in members if row]


def pack_cheaply(lengths: Sequence[int], width: int, sizes: Sizes = EXACT) -> list[list[int]]:
    """Pack sequences into rows of the length that costs least to compute in a transformer of hidden size `width`, in
    rows of such `sizes`.

    A block costs about ``24 L d^2 + 4 L^2 d`` multiply-adds for a row of L positions: long rows waste less padding,
    short ones less attention.
    """
    if not lengths:
        return []
    longest = sizes.length(max(LONGEST_ROW, *lengths))

    def cost(rows: list[list[int]]) -> tuple[bool, float]:
        length = sizes.length(max(sum(lengths[i] for i in row) for row in rows))
        return length > longest, sizes.count(len(rows)) * length * (1 + length / (6 * width))

    alone = [(length,) for length in lengths]
    tried = sequences_a_row(sum(lengths) / len(lengths), longest)
    return min((balance(alone, -(-len(lengths) // each)) for each in tried), key=cost)


def sequences_a_row(length: float, longest: int) -> list[int]:
    """How many sequences of mean length `length` to try a row that shall hold at most `longest` positions.

    Whole numbers: where sequences are about equally long, a number of rows between leaves some of them half full.
    """
    return [each for each in SEQUENCES_A_ROW if each == 1 or each * length <= longest]

"""Packing of short sequences into rows of one length, so that little of a row is padding."""

from __future__ import annotations

from collections.abc import Sequence

ROW_LENGTHS = (64, 96, 128, 192, 256, 384, 512)
"""Row lengths that are tried, besides that of the longest sequence."""
OPEN_ROWS = 128
"""Rows that are looked at for a place; more would make packing quadratic and hardly tighter."""


def pack(sizes: Sequence[tuple[int, ...]], capacity: tuple[int, ...]) -> list[list[int]]:
    """First-fit decreasing: indices of `sizes` in rows, none of which holds more than `capacity` in any dimension.

    A sequence larger than the capacity gets a row of its own. Rows keep the order in which they were opened.
    """
    least = [min(size[d] for size in sizes) for d in range(len(capacity))] if sizes else []
    rows: list[list[int]] = []
    room: dict[int, tuple[int, ...]] = {}  # what is left in the rows that are still open
    for index in sorted(range(len(sizes)), key=lambda i: sum(sizes[i]), reverse=True):
        size = sizes[index]
        row = next((r for r, left in room.items() if all(s <= have for s, have in zip(size, left, strict=True))), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room[row] = capacity
        rows[row].append(index)
        room[row] = tuple(have - s for s, have in zip(size, room[row], strict=True))
        if any(have < s for have, s in zip(room[row], least, strict=True)):
            del room[row]
        elif len(room) > OPEN_ROWS:
            del room[next(iter(room))]
    return rows


def pack_cheaply(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Pack sequences into rows of the length that costs least to compute in a transformer of hidden size `width`.

    A block costs about ``24 L d^2 + 4 L^2 d`` multiply-adds for a row of L positions: long rows waste less padding,
    short ones less attention.
    """
    if not lengths:
        return []
    longest = max(lengths)
    sizes = [(length,) for length in lengths]

    def cost(rows: list[list[int]]) -> float:
        length = max(sum(lengths[i] for i in row) for row in rows)
        return len(rows) * length * (1 + length / (6 * width))

    capacities = [longest, *(length for length in ROW_LENGTHS if length > longest)]
    return min((pack(sizes, (capacity,)) for capacity in capacities), key=cost)

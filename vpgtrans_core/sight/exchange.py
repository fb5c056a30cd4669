"""Which picture each caption is read with when the pictures of a set are exchanged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence

from vpgtrans_core.llm.text import Text


def partners(groups: Sequence[Hashable]) -> list[int | None]:
    """For each picture another one of another group, each used once: a derangement, the same for the same groups.

    Sorted by group and shifted by the size of the largest one, no picture meets its own group while that group holds at
    most half of all. A picture that does has no partner: None.

    Args:
        groups: of each picture; those with the same captions are one group. They are put in the order of their hashes,
            so that neighbours are not alike.
    """
    order = sorted(range(len(groups)), key=lambda n: (_digest(groups[n]), n))
    shift = max(Counter(groups).values(), default=0)
    result: list[int | None] = [None] * len(groups)
    for place, own in enumerate(order):
        other = order[(place + shift) % len(order)]
        result[own] = other if groups[own] != groups[other] else None
    return result


def group_of(texts: Sequence[Text], images: int) -> str:
    """The group of a sample: the same for samples with the same texts, in whatever order, and as many images."""
    return _digest((images, sorted({repr(text.pieces) for text in texts})))


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()

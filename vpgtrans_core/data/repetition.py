"""Whether a text says the same several times in a row, as language models do when they loop."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 12
"""The longest run of words that is looked for a second time right behind itself."""


def loops(words: Sequence[str]) -> bool:
    """Whether words are repeated in a row: one or two of them three times, three or more twice."""
    for period in range(1, min(LONGEST_PERIOD, len(words) // 2) + 1):
        needed = period * (2 if period < 3 else 1)
        run = 0
        for one, other in zip(words, words[period:], strict=False):
            run = run + 1 if one == other else 0
            if run >= needed:
                return True
    return False

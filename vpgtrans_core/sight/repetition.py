"""Whether a text says the same again and again, as language models do when they loop. The one rule; loads no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

STUTTER = re.compile(r"(\w{2,20}?)\1{3}")
"""The same letters four times in a row, without spaces ("redredredred")."""
LONGEST_PERIOD = 12
"""The longest run of words that is looked for a second time right behind itself."""
LOOP_WORDS = 8
"""Words from which repeated triples of words count."""
DISTINCT = 0.7
"""The share of a text's triples of words that must differ. Captions that name two things alike have more ("a red ball
on the left and a red ball on the right": .73), a text that begins again has fewer."""
RULE = "says one or two words three times in a row, more words twice, or begins again with what it has said"
"""The rule in words, for those who read what was dropped by it."""


def repeats(text: str) -> bool:
    """Whether a text repeats itself: letters, words in a row, or most of its triples of words."""
    words = re.findall(r"\w+", text.lower())
    return STUTTER.search(text) is not None or _in_a_row(words) or _again(words)


def _in_a_row(words: Sequence[str]) -> bool:
    """Whether words are repeated in a row: one or two of them three times, three or more twice."""
    for period in range(1, min(LONGEST_PERIOD, len(words) // 2) + 1):
        needed = period * (2 if period < 3 else 1)
        run = 0
        for one, other in zip(words, words[period:], strict=False):
            run = run + 1 if one == other else 0
            if run >= needed:
                return True
    return False


def _again(words: Sequence[str]) -> bool:
    """Whether fewer of the text's triples of words differ than `DISTINCT`."""
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(words) >= LOOP_WORDS and len(set(triples)) < DISTINCT * len(triples)

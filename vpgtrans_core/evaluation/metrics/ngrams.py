"""Counting n-grams of tokenized captions."""

from __future__ import annotations

from collections import Counter

NGram = tuple[str, ...]
LONGEST = 4


def ngrams(tokens: str) -> Counter[NGram]:
    """How often each n-gram of one to four tokens stands in a tokenized caption."""
    words = tokens.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))

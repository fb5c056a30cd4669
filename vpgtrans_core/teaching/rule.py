"""Which of a source's captions are kept: the rule, in one place. Loads no torch.

A language model does not only describe: it asks itself questions, writes markup, or says one thing again and again.
What a target would learn of that is worse than nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from vpgtrans_core.sight import repetition

RULE = {
    "unfinished": "cut at the limit of length",
    "question": "holds a question mark, or question: or answer:",
    "markup": "holds a tag, an address, a bracketed link, or a character that could not be decoded",
    "repetition": repetition.RULE,
    "other script": "more than a fifth of its letters are of another script than the rest",
    "short": "fewer than three letters",
    "duplicate": "the image has the same caption already",
}
"""What is dropped, in the order in which it is looked for, and what it means."""
_QUESTION = re.compile(r"\?|\b(question|answer)\s*:", re.IGNORECASE)
_MARKUP = re.compile(r"</?\w[^<>]*>|https?:|www\.|\]\(|\{\{|\ufffd|```")
OTHER_LETTERS = 0.2
"""The largest share of letters of another script."""
SHORTEST = 3
"""Letters of a caption; one word may be the whole of it, where pictures show single things."""
TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK"}
"""Scripts that are written in one text."""


def sift(
    texts: Iterable[tuple[str, bool]], clean: Callable[[str], str]
) -> tuple[list[str], Counter[str], dict[str, str]]:
    """Apply the rule to one image's captions.

    Args:
        texts: each caption, and whether it ended of itself.
        clean: as human captions are cleaned.

    Returns:
        the cleaned captions that are kept; how many were dropped, by the names in `RULE`; the first of each kind.
    """
    kept: dict[str, None] = {}
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for text, ended in texts:
        cleaned = " ".join(clean(text).split())
        wrong = fault(text, cleaned, ended) or ("duplicate" if cleaned in kept else None)
        if wrong is None:
            kept[cleaned] = None
        else:
            dropped[wrong] += 1
            first.setdefault(wrong, text)
    return list(kept), dropped, first


def fault(text: str, cleaned: str, ended: bool = True) -> str | None:
    """What is wrong with a caption by itself, as a name in `RULE`; None if nothing is."""
    letters = sum(map(str.isalpha, cleaned))
    faults = {
        "unfinished": not ended,
        "question": bool(_QUESTION.search(text)),
        "markup": bool(_MARKUP.search(text)),
        "repetition": repetition.repeats(cleaned),
        "other script": other_letters(cleaned) > OTHER_LETTERS,
        "short": letters < SHORTEST and cleaned.isascii(),  # in other scripts one character may be a word
    }
    return next((name for name, there in faults.items() if there), None)


def other_letters(text: str) -> float:
    """The share of letters that are not of the text's main script."""
    scripts = Counter(_script(letter) for letter in text if letter.isalpha())
    total = sum(scripts.values())
    return 1 - max(scripts.values()) / total if total else 0.0


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "unknown").split()[0]
    return TOGETHER.get(name, name)

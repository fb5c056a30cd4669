"""What is wrong with generated captions, by rules that need no model: empty, constant, repetition, scripts, markup."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from vpgtrans_core.sight.repetition import repeats

MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<\||https?:|www\.|&[a-z]+;|```|\\[a-z]+\{|\{\{|\[\[|#{2,}|={3,}|(\w\.){3,}")
"""Tags, special tokens, addresses, entities, code and headings; and letters with a dot after each ("a.b.c.d.")."""
OTHER_SCRIPT = 0.2
"""The share of a text's letters in scripts that no caption uses from which it is written in another script."""


def has_markup(text: str) -> bool:
    """Whether a text holds markup, code or an address."""
    return MARKUP.search(text) is not None


def scripts(texts: Iterable[str]) -> set[str]:
    """The scripts of all letters: ``LATIN``, ``CYRILLIC``, ``CJK``, ..."""
    return {_script(letter) for text in texts for letter in text if letter.isalpha()}


def in_other_script(text: str, known: set[str]) -> bool:
    """Whether many of a text's letters are of none of the scripts `known`."""
    letters = [letter for letter in text if letter.isalpha()]
    return sum(_script(letter) not in known for letter in letters) > OTHER_SCRIPT * max(len(letters), 1)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").partition(" ")[0]


def faults(said: Sequence[str], captions: Sequence[str]) -> dict[str, str]:
    """What is wrong with most of some generated texts, in words, by kind; empty for texts like captions.

    Args:
        said: what the model says, one text an image.
        captions: captions of the same images: what the training teaches.
    """
    if not said:
        return {}
    half = len(said) / 2
    spoken = [text.strip() for text in said if text.strip()]
    empty = len(said) - len(spoken)
    found = {}
    if empty > half:
        found["empty"] = f"it generates no text for {empty} of {len(said)} images"
    if len(spoken) > 2 and len(set(spoken)) == 1 and len(set(captions)) != 1:
        silent = f", and none for {empty}" if empty else ""
        found["constant"] = f"it generates the same text for {len(spoken)} images ({spoken[0]!r}){silent}"
    known = scripts(captions)
    kinds: dict[str, tuple[Callable[[str], bool], str]] = {
        "repetition": (repeats, "repeats itself"),
        "markup": (has_markup, "writes markup or code"),
    }
    if known:
        kinds["script"] = (lambda text: in_other_script(text, known), "writes in another script than the captions")
    usual = {kind: sum(map(test, captions)) for kind, (test, _) in kinds.items()}  # captions may be so themselves
    for kind, (test, words) in kinds.items():
        odd = [text for text in spoken if test(text)]
        if len(odd) > half and usual[kind] <= len(captions) / 2:
            found[kind] = f"it {words} for {len(odd)} of {len(said)} images ({odd[0][:80]!r})"
    return found

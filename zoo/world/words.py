"""Human words for pictures: Unicode's names and keywords of emoji, and the lines that come with Tux Paint's stamps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vpgtrans_core.errors import DataError
from zoo.world.styles import package_folder

CLDR = "cldr-annotations-full"
CLDR_LICENCE = "Unicode-3.0"
STAMPS_LICENCE = "GPL-2.0-or-later and freer; see the package's docs"
MOST_KEYWORDS = 6
_NO_PICTURES = range(0x1F3FB, 0x1F400)  # colours of skin
_LETTERS = range(0x1F1E6, 0x1F200)  # letters that flags are made of
_LEFT_OUT = ("_mirror", "_flip", "money", "alphabet", "numbers", "symbols/math")


@dataclass(frozen=True)
class Concept:
    """Something that pictures show.

    Attributes:
        signs: the emoji.
        name: Unicode's name of it, in lower case.
        keywords: further words that people look for it by.
    """

    signs: str
    name: str
    keywords: tuple[str, ...]


def concepts(packages: Path) -> list[Concept]:
    """All emoji of one code point with their English names, in the order of Unicode."""
    file = package_folder(packages, CLDR) / "annotations/en/annotations.json"
    if not file.is_file():
        raise DataError(f"{file} is missing", f"another version of {CLDR} may have it")
    told = json.loads(file.read_text(encoding="utf-8"))["annotations"]["annotations"]
    return [_concept(signs, words) for signs, words in sorted(told.items()) if _is_emoji(signs) and words.get("tts")]


def _is_emoji(signs: str) -> bool:
    bare = signs.replace("\ufe0f", "")
    return len(bare) == 1 and ord(bare) not in _NO_PICTURES and ord(bare) not in _LETTERS and not bare.isascii()


def _concept(signs: str, words: dict[str, list[str]]) -> Concept:
    name = plain(words["tts"][0])
    others = [plain(word) for word in words.get("default", ())]
    return Concept(signs, name, tuple(word for word in others if word and word != name)[:MOST_KEYWORDS])


def plain(text: str) -> str:
    """Lower case, and no other signs than those of words."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("’", "'")).split())


@dataclass(frozen=True)
class Stamp:
    """A picture of Tux Paint's with the line that it says to children."""

    file: Path
    name: str
    line: str


def stamps(folder: Path) -> Iterator[Stamp]:
    """The stamps below a folder that holds ``tuxpaint/stamps`` somewhere, in the order of their names.

    Raises:
        DataError: there are none.
    """
    root = next(iter(sorted(folder.glob("**/tuxpaint/stamps"))), None)
    if root is None:
        raise DataError(
            f"there is no folder tuxpaint/stamps below {folder}",
            "unpack Debian's package tuxpaint-stamps-default there, or name /usr/share where it is installed",
        )
    for file in sorted(root.rglob("*.png")):
        name, text = file.relative_to(root).as_posix(), file.with_suffix(".txt")
        if text.is_file() and not any(part in name for part in _LEFT_OUT):
            lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines and lines[0].strip():
                yield Stamp(file, name.removesuffix(".png").replace("/", "-"), lines[0].strip())

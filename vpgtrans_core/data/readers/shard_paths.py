"""Which tar files a path or pattern names."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from vpgtrans_core.errors import DataError, UnsafeInput

MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_URL = re.compile(r"^(pipe:|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


def refuse_urls(path: str) -> None:
    """Only files are read.

    Raises:
        UnsafeInput: the path is a URL, or a ``pipe:`` that other readers of shards would hand to a shell.
    """
    if _URL.match(path):
        raise UnsafeInput(f"{path} is not a path: data is read from files only", "download the data to a folder first")


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern of shards: braces (``{000..012}``, ``{a,b}``) or ``*``, ``?``, ``[...]``."""
    return bool(_RANGE.search(path) or _CHOICE.search(path) or re.search(r"[*?\[]", path))


def shards(path: str) -> list[Path]:
    """The tar files that a file, a folder or a pattern names, sorted.

    Raises:
        DataError: files of a brace pattern are missing, or nothing fits.
    """
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.tar"))
    if not is_pattern(path) or Path(path).exists():
        return [Path(path)]
    found: list[Path] = []
    missing: list[str] = []
    for name in expand(path):
        fits = sorted(glob.glob(name))
        found += map(Path, fits)
        if not fits:
            missing.append(name)
    if missing or not found:
        raise DataError(
            f"{len(missing)} of the shards that {path} names do not exist: {', '.join(missing[:5])}",
            "check the pattern, or give the folder to use every shard in it",
        )
    if others := [file.name for file in found if file.suffix != ".tar"]:
        raise DataError(
            f"{path} names {others[0]}, which is not a .tar shard; a pattern names shards alone",
            "give each other file with a --data of its own",
        )
    return found


def expand(pattern: str) -> list[str]:
    """Expand ``{000..012}`` (zeros kept) and ``{a,b}``, several of them too.

    Raises:
        DataError: there would be more than a million.
    """
    found = [pattern]
    while _RANGE.search(found[0]) or _CHOICE.search(found[0]):
        found = [name for one in found for name in _expand_one(one)]
        if len(found) > MOST_SHARDS:
            raise DataError(f"{pattern} names more than {MOST_SHARDS} shards", "give a smaller range")
    return found


def _expand_one(pattern: str) -> list[str]:
    """Expand the first pair of braces."""
    if match := _RANGE.search(pattern):
        first, last = match.groups()
        if int(last) - int(first) >= MOST_SHARDS:
            raise DataError(f"{pattern} names more than {MOST_SHARDS} shards", "give a smaller range")
        width = len(first) if first.startswith("0") else 0
        values = [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    else:
        match = _CHOICE.search(pattern)
        if match is None:
            return [pattern]
        values = match[1].split(",")
    return [pattern[: match.start()] + value + pattern[match.end() :] for value in values]

"""Where a named image lies below its folder, and which of many named images are not there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError

LISTED_FROM = 256
"""From so many names in one folder on, the folder is listed instead of asking for each name."""


def split_path(path: str) -> tuple[Path, Path | None]:
    """``FILE:FOLDER`` as its two parts, any other path alone. Each of them may hold colons of its own."""
    if not Path(path).expanduser().exists():
        colons = [place for place, letter in enumerate(path) if letter == ":"]
        for place in reversed(colons):
            file, root = Path(path[:place]).expanduser(), path[place + 1 :]
            if root and (file.is_file() or file.is_dir()):
                return file, Path(root).expanduser()
    return Path(path).expanduser(), None


def below(root: str | Path, name: str) -> Path:
    """The path of `name` below `root`, without looking at the disk.

    A name may not climb out. An absolute name must lie in `root`, as it is written or once the links of its folder
    are followed.

    Raises:
        BadSampleError: it leads elsewhere.
    """
    return Path(_below(os.path.abspath(root), name))


def existing(root: str | Path, name: str) -> Path:
    """As `below`; a name that is not there is looked for in the other Unicode forms of its letters (a disk of another
    system writes é as one character or as two)."""
    path = below(root, name)
    if name.isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:]:
        found /= part if part.isascii() or os.path.lexists(found / part) else _as_on_disk(found, part)
    return found


def _as_on_disk(folder: Path, name: str) -> str:
    """The name of a folder's entry that is written with the same letters, in whatever form."""
    try:
        return _by_letters(str(folder), folder.stat().st_mtime_ns).get(unicodedata.normalize("NFC", name), name)
    except OSError:
        return name


@lru_cache(maxsize=4)
def _by_letters(folder: str, _changed: int) -> dict[str, str]:
    """The names in a folder that are not plain ASCII, by their composed form."""
    return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder) if not name.isascii()}


def missing(root: Path, names: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Which of these names have no file below `root`: their number, the kind of bad sample, and a detail.

    Folders are listed, no file is opened: this sees in seconds, before any training, what was never downloaded.
    """
    top, by_folder = os.path.abspath(root), dict[str, list[tuple[int, str, str]]]()
    for number, name in enumerate(names):
        try:
            folder, base = os.path.split(_below(top, name))
        except BadSampleError as error:
            yield number, error.kind, error.detail
        else:
            by_folder.setdefault(folder, []).append((number, base, name))
    for folder, wanted in by_folder.items():
        listed = _listed(folder) if len(wanted) >= LISTED_FROM else set()
        for number, base, name in wanted:
            if base not in listed and not _exists(root, name):
                yield number, bad.MISSING_FILE, ""


def is_there(root: Path, name: str) -> bool:
    """Whether a file of this name can be read below `root`."""
    try:
        return existing(root, name).is_file()
    except (BadSampleError, OSError, ValueError):
        return False


def _below(folder: str, name: str) -> str:
    path = os.path.normpath(os.path.join(folder, name))
    if _inside(path, folder):
        return path
    if os.path.isabs(name) and "\0" not in name:
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if _inside(real, os.path.realpath(folder)):
            return real
    raise BadSampleError(bad.OUTSIDE_ROOT, f"leads to {path}, outside {folder}")


def _exists(root: Path, name: str) -> bool:
    try:
        return os.path.exists(existing(root, name))
    except (OSError, ValueError):
        return True  # what is wrong with it is told where it is read


def _listed(folder: str) -> set[str]:
    """The names in a folder; links without a target are not among them."""
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if not e.is_symlink() or os.path.exists(e.path)}
    except OSError:
        return set()


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)

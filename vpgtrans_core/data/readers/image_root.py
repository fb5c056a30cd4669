"""Where the images of an annotation file are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vpgtrans_core.data.places import is_there
from vpgtrans_core.data.strings import Strings
from vpgtrans_core.errors import DataError

PROBES = 32
MOST_FOLDERS = 200
_SPLIT = re.compile(r"(train|val|test)\d{4}")


def find_root(file: Path, names: Strings, given: Path | None) -> Path:
    """Return the folder below which `names` are found.

    Looked in, for ``DIR/FILE.json``: what was given after the colon; else ``DIR``, ``DIR/images``, ``DIR/image``,
    ``DIR/FILE``, ``DIR/..`` and its ``images``, the folder of a COCO split that the file's name holds
    (``train2017``) in ``DIR/..``, ``DIR/../images`` and ``DIR``, and then each other folder in ``DIR``. The folder
    wins in which most of some 32 probed names exist.

    Raises:
        DataError: none of the probed names is in any of them.
    """
    probes = [names[i] for i in sorted({round(k * (len(names) - 1) / PROBES) for k in range(PROBES + 1)})]
    folders = [given] if given is not None else _candidates(file)
    best = _best(folders, probes) or (_best(_beside(file), probes) if given is None else None)
    if best is None:
        raise _nowhere(file, probes, folders)
    return best


def _best(folders: list[Path], probes: list[str]) -> Path | None:
    """The folder that holds most of the probed names, the first of equals; None when all hold none."""
    hits = {folder: sum(is_there(folder, name) for name in probes) for folder in folders if folder.is_dir()}
    best = max(hits, key=lambda folder: hits[folder], default=None)
    return best if best is not None and hits[best] else None


def _candidates(file: Path) -> list[Path]:
    here, above = file.parent, file.parent.parent
    folders = [here, here / "images", here / "image", here / file.stem, above, above / "images"]
    if match := _SPLIT.search(file.stem):
        folders += [above / match[0], above / "images" / match[0], here / match[0]]
    return list(dict.fromkeys(folders))


def _beside(file: Path) -> list[Path]:
    """The folders beside the file, whatever they are called."""
    return sorted(entry for entry in file.parent.iterdir() if entry.is_dir())[:MOST_FOLDERS]


def _nowhere(file: Path, probes: list[str], folders: list[Path]) -> DataError:
    looked = ", ".join(str(folder) for folder in folders)
    elsewhere = [name for name in probes if os.path.isabs(name) and os.path.isfile(name)]
    if elsewhere:
        return DataError(
            f"the images that {file} names lie outside of its folder, for instance {elsewhere[0]!r}; absolute paths "
            "are read only in a folder that you name",
            f"name it after a colon: --data {file}:{os.path.commonpath([os.path.dirname(n) for n in elsewhere])}",
        )
    return DataError(
        f"none of the images that {file} names is there, for instance {probes[0]!r}; looked in: {looked}",
        f"name the images' folder after a colon: --data {file}:PATH/TO/IMAGES",
    )

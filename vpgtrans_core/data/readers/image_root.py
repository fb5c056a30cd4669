"""Where the images of an annotation file are."""

from __future__ import annotations

import re
from pathlib import Path

from vpgtrans_core.data.strings import Strings
from vpgtrans_core.errors import DataError

PROBES = 32
_SPLIT = re.compile(r"(train|val|test)\d{4}")


def find_root(file: Path, names: Strings, given: Path | None) -> Path:
    """Return the folder below which `names` are found.

    Looked in, for ``DIR/FILE.json``: what was given after the colon; else ``DIR``, ``DIR/images``, ``DIR/image``,
    ``DIR/FILE``, ``DIR/..`` and its ``images``, and the folder of a COCO split that the file's name holds
    (``train2017``) in ``DIR/..``, ``DIR/../images`` and ``DIR``. The folder wins in which most of some 32 probed
    names exist.

    Raises:
        DataError: none of the probed names is in any of them.
    """
    probes = [names[i] for i in sorted({round(k * (len(names) - 1) / PROBES) for k in range(PROBES + 1)})]
    folders = [given] if given is not None else _candidates(file)
    found = {folder: sum(_exists(folder, name) for name in probes) for folder in folders if folder.is_dir()}
    best = max(found, key=lambda folder: found[folder], default=None)
    if best is None or not found[best]:
        looked = ", ".join(str(folder) for folder in folders)
        raise DataError(
            f"none of the images that {file} names is there, for instance {probes[0]!r}; looked in: {looked}",
            f"name the images' folder after a colon: --data {file}:PATH/TO/IMAGES",
        )
    return best


def _candidates(file: Path) -> list[Path]:
    here, above = file.parent, file.parent.parent
    folders = [here, here / "images", here / "image", here / file.stem, above, above / "images"]
    if match := _SPLIT.search(file.stem):
        folders += [above / match[0], above / "images" / match[0], here / match[0]]
    return list(dict.fromkeys(folders))


def _exists(folder: Path, name: str) -> bool:
    try:
        path = (folder / name).resolve()
        return path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):
        return False

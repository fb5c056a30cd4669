"""Which format a path holds: recognised by looking at it, or named by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.readers import coco, imagefolder
from vpgtrans_core.data.readers.json_rows import read_json
from vpgtrans_core.errors import DataError, did_you_mean

Clean = Callable[[str], str]


@dataclass(frozen=True)
class JsonFormat:
    """A format that is one json file. `fits` looks at the parsed json; `read` makes the listing of it."""

    looks_like: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, Path, Path | None, Clean], Listing]


JSON_FORMATS = {
    "coco": JsonFormat('json {"images": [...], "annotations": [...]}', coco.fits, coco.read),
}

FORMATS = (*JSON_FORMATS, "imagefolder")
"""The names for ``--format``."""


def read_source(path: str, format: str | None, clean: Clean) -> Listing:
    """Read one source.

    Args:
        path: a file, a folder, or ``FILE.json:FOLDER`` with the images' folder.
        format: one of `FORMATS`, or None to look.
        clean: how captions are cleaned.

    Raises:
        DataError: nothing is there, the format is not known or does not fit, or nothing is usable. The message says
            what was seen and what would fit.
    """
    if format is not None and format not in FORMATS:
        guess = did_you_mean(format, FORMATS)
        raise DataError(f"unknown data format {format!r}" + (f"; {guess}" if guess else ""), fitting())
    file, root = _split(path)
    if not file.exists():
        raise DataError(f"there is no data at {file}", "check the path; relative ones start at the current folder")
    if root is not None and not root.is_dir():
        raise DataError(f"there is no image folder at {root}", "name an existing folder after the colon")
    if file.is_dir() and not any(file.iterdir()):
        raise DataError(f"{file} is an empty folder", fitting())
    if format == "imagefolder" or (format is None and imagefolder.metadata_of(file)):
        return imagefolder.read(file, root, clean)
    if file.suffix in (".json", ".jsonl"):
        return _read_json(file, root, format, clean)
    raise DataError(f"{file} is in no known format: {seen(file)}", fitting())


def _split(path: str) -> tuple[Path, Path | None]:
    """``FILE:FOLDER`` as its two parts, any other path alone."""
    file, colon, root = path.rpartition(":")
    if colon and not Path(path).exists() and Path(file).exists():
        return Path(file).expanduser(), Path(root).expanduser()
    return Path(path).expanduser(), None


def _read_json(file: Path, root: Path | None, format: str | None, clean: Clean) -> Listing:
    data = read_json(file)
    names = [name for name, known in JSON_FORMATS.items() if known.fits(data)]
    name = format or (names[0] if names else None)
    if name is None or name not in names:
        asked = f"not in the format {format!r}" if format else "in no known format"
        raise DataError(f"{file} is {asked}: it holds {_shape(data)}", fitting())
    return JSON_FORMATS[name].read(data, file, root, clean)


def _shape(data: Any) -> str:
    """What parsed json looks like, in a few words."""
    if isinstance(data, dict):
        return f"an object with the keys {', '.join(map(repr, list(data)[:8])) or '(none)'}"
    if isinstance(data, list):
        return f"a list of {len(data)} rows" + (f", the first {_shape(data[0])}" if data else "")
    return f"a {type(data).__name__}"


def seen(path: Path) -> str:
    """What lies at a path, in a few words."""
    if path.is_file():
        return f"a file of {path.stat().st_size} bytes"
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder with {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def fitting() -> str:
    """What would fit, for error messages."""
    shapes = "; ".join(f"{name}: {known.looks_like}" for name, known in JSON_FORMATS.items())
    return f"what fits ({', '.join(FORMATS)}): {shapes}; imagefolder: a folder with metadata.jsonl or metadata.csv"

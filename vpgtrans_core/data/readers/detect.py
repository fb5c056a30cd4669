"""Which format a path holds: recognised by looking at it, or named by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.captions import clean as clean_caption
from vpgtrans_core.data.captions import keep
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.readers import coco, disk_dataset, imagefolder, karpathy, llava, minigpt4, webdataset
from vpgtrans_core.data.readers.json_rows import read_json
from vpgtrans_core.data.readers.shard_paths import is_pattern, refuse_urls
from vpgtrans_core.errors import DataError, did_you_mean

Clean = Callable[[str], str]


@dataclass(frozen=True)
class JsonFormat:
    """A format that is one json file. `fits` looks at the parsed json; `read` makes the listing of it."""

    looks_like: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, Path, Path | None, Clean], Listing]
    clean: Clean = clean_caption


JSON_FORMATS = {
    "coco": JsonFormat('json {"images": [...], "annotations": [...]}', coco.fits, coco.read),
    "llava": JsonFormat('json [{"image", "conversations"}]', llava.fits, llava.read, keep),
    "karpathy": JsonFormat('json [{"image", "caption"}]', karpathy.fits, karpathy.read),
    "minigpt4": JsonFormat('json {"annotations": [{"image_id", "caption"}]}', minigpt4.fits, minigpt4.read),
}
FOLDER_FORMATS = {
    "imagefolder": "a folder of images with metadata.jsonl or metadata.csv",
    "webdataset": "uncompressed .tar shards, their folder, or a pattern like shard-{000..012}.tar",
    "datasets": "a folder written by datasets' save_to_disk",
}
FORMATS = (*JSON_FORMATS, *FOLDER_FORMATS)
"""The names for ``--format``."""


def read_source(path: str, format: str | None, clean: Clean | None = None, hashes: bool = False) -> Listing:
    """Read one source.

    Args:
        path: a file, a folder, a pattern of tar shards, or ``FILE.json:FOLDER`` with the images' folder.
        format: one of `FORMATS`, or None to look.
        clean: how captions are cleaned; default by format: captions as in the paper, conversations not at all.
        hashes: compare tar shards with the SHA-256 of their manifest.

    Raises:
        DataError: nothing is there, the format is not known or does not fit, or nothing is usable. The message says
            what was seen and what would fit.
        UnsafeInput: the path is a URL.
    """
    if format is not None and format not in FORMATS:
        guess = did_you_mean(format, FORMATS)
        raise DataError(f"unknown data format {format!r}" + (f"; {guess}" if guess else ""), fitting())
    refuse_urls(path)
    try:
        if is_pattern(path) and not Path(path).exists():
            return webdataset.read(path, clean or clean_caption, hashes)
        return _read_path(*_split(path), format, clean, hashes)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}", "check the path and its permissions") from error


def _read_path(file: Path, root: Path | None, format: str | None, clean: Clean | None, hashes: bool) -> Listing:
    if not file.exists():
        raise DataError(f"there is no data at {file}", "check the path; relative ones start at the current folder")
    if root is not None and not root.is_dir():
        raise DataError(f"there is no image folder at {root}", "name an existing folder after the colon")
    if file.is_dir() and not any(file.iterdir()):
        raise DataError(f"{file} is an empty folder", fitting())
    format = format or look(file)
    if format == "imagefolder" and imagefolder.metadata_of(file):
        return imagefolder.read(file, root, clean or clean_caption)
    if format == "webdataset":
        return webdataset.read(str(file), clean or clean_caption, hashes)
    if format == "datasets" and file.is_dir():
        return disk_dataset.read(file, clean or clean_caption)
    if (format is None or format in JSON_FORMATS) and (json_file := _json_in(file)):
        return _read_json(json_file, root, format, clean)
    kind = "in no known format" if format is None else f"not in the format {format!r}"
    raise DataError(f"{file} is {kind}: it is {seen(file)}", fitting())


def look(path: Path) -> str | None:
    """The format of a path, seen by its names; None for json, which is told by its content, and for what is unknown."""
    if imagefolder.metadata_of(path):
        return "imagefolder"
    if path.is_dir() and disk_dataset.is_one(path):
        return "datasets"
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return "webdataset"
    return None


def _split(path: str) -> tuple[Path, Path | None]:
    """``FILE:FOLDER`` as its two parts, any other path alone."""
    file, colon, root = path.rpartition(":")
    if colon and not Path(path).expanduser().exists() and Path(file).expanduser().is_file():
        return Path(file).expanduser(), Path(root).expanduser()
    return Path(path).expanduser(), None


def _json_in(path: Path) -> Path | None:
    """The json file that a path is; for a folder, the only one in it, or the one with a name that says captions."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        named = [file for file in files if file.name in ("captions.json", "filter_cap.json")]
        return next((some[0] for some in (named, files) if len(some) == 1), None)
    return path if path.suffix in (".json", ".jsonl") else None


def _read_json(file: Path, root: Path | None, format: str | None, clean: Clean | None) -> Listing:
    data = read_json(file)
    names = [name for name, known in JSON_FORMATS.items() if known.fits(data)]
    name = format or (names[0] if names else None)
    if name is None or name not in names:
        asked = f"not in the format {format!r}" if format else "in no known format"
        raise DataError(f"{file} is {asked}: it holds {_shape(data)}", fitting())
    known = JSON_FORMATS[name]
    return known.read(data, file, root, clean or known.clean)


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
    shapes = {name: known.looks_like for name, known in JSON_FORMATS.items()} | FOLDER_FORMATS
    return "what fits:\n" + "\n".join(f"  {name}: {shape}" for name, shape in shapes.items())

"""Which format a path holds: recognised by its content, or named by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.places import split_path
from vpgtrans_core.data.readers import (
    coco,
    disk_dataset,
    imagefolder,
    karpathy,
    llava,
    minigpt4,
    table,
    text_beside,
    webdataset,
)
from vpgtrans_core.data.readers.fields import Reading
from vpgtrans_core.data.readers.json_rows import read_json
from vpgtrans_core.data.readers.shard_manifest import NAME as SHARDS
from vpgtrans_core.data.readers.shard_paths import is_pattern, refuse_urls
from vpgtrans_core.data.regular import open_regular, packing, refuse_special
from vpgtrans_core.errors import DataError, did_you_mean


@dataclass(frozen=True)
class JsonFormat:
    """A format that is one json file. `fits` looks at the parsed json; `read` makes the listing of it."""

    looks_like: str
    fits: Callable[[Any, Reading], bool]
    read: Callable[[Any, Path, Path | None, Reading], Listing]


JSON_FORMATS = {
    "coco": JsonFormat('json {"images": [...], "annotations": [...]}', coco.fits, coco.read),
    "llava": JsonFormat('json [{"image", "conversations"}] or [{"images", "messages"}]', llava.fits, llava.read),
    "karpathy": JsonFormat('json [{"image", "caption"}], or dataset_coco.json', karpathy.fits, karpathy.read),
    "minigpt4": JsonFormat('json {"annotations": [{"image_id", "caption"}]}', minigpt4.fits, minigpt4.read),
}
OTHER_FORMATS = {
    "imagefolder": "a folder of images with metadata.jsonl or metadata.csv",
    "table": "a .csv, .tsv or .txt with columns such as image,caption, or Flickr's NAME.jpg#0<tab>CAPTION",
    "files": "a folder of images, each with its caption in NAME.txt (or NAME.json) beside it",
    "webdataset": "uncompressed .tar shards, their folder, or a pattern like shard-{000..012}.tar",
    "datasets": "a folder written by datasets' save_to_disk",
    "parquet": "a .parquet file with images in it, or a folder of them",
}
FORMATS = (*JSON_FORMATS, *OTHER_FORMATS)
"""The names for ``--format``."""
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
NOTES = ("_stats.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", SHARDS)
"""Files of img2dataset, of `datasets` and of our own that hold no captions."""
MOST_TABLES = 20
HEAD = 80
"""Bytes of an unknown file that are shown."""
CAPTIONS_FILES = ("captions", "filter_cap", "results", "Flickr8k.token")
"""How the annotation file is called, without its ending, where several lie in a folder."""


def read_source(
    path: str,
    format: str | None,
    clean: Callable[[str], str] | None = None,
    hashes: bool = False,
    caption_key: str | None = None,
    pictures: bool = False,
) -> Listing:
    """Read one source.

    Args:
        path: a file, a folder, a pattern of tar shards, or ``FILE.json:FOLDER`` with the images' folder.
        format: one of `FORMATS`, or None to look.
        clean: how captions are cleaned; default by format: captions as in the paper, conversations not at all.
        hashes: compare tar shards with the SHA-256 of their manifest.
        caption_key: the field that holds the captions; None for the usual ones.
        pictures: keep images without captions, see `Reading`.

    Raises:
        DataError: nothing is there, the format is not known or does not fit, or nothing is usable. The message says
            what was seen and what would fit.
        UnsafeInput: the path is a URL.
    """
    reading = Reading(clean, caption_key, hashes, pictures)
    if format is not None and format not in FORMATS:
        guess = did_you_mean(format, FORMATS)
        raise DataError(f"unknown data format {format!r}" + (f"; {guess}" if guess else ""), fitting())
    refuse_urls(path)
    try:
        if is_pattern(path) and not Path(path).exists() and split_path(path)[1] is None:
            return webdataset.read(path, reading)
        return _read_path(*split_path(path), format, reading)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}", "check the path and its permissions") from error


def _read_path(path: Path, root: Path | None, format: str | None, reading: Reading) -> Listing:
    if not path.exists():
        raise DataError(
            f"the data {path} does not exist", "check the path; a relative path starts at the current folder"
        )
    refuse_special(path)
    if root is not None and not root.is_dir():
        raise DataError(f"the image folder {root} does not exist", "give an existing folder after the colon")
    if path.is_dir() and not any(path.iterdir()):
        raise DataError(f"{path} is an empty folder", fitting())
    format = format or look(path, reading.pictures)
    if (listing := _read_other(path, root, format, reading)) is not None:
        return listing
    if (format is None or format in JSON_FORMATS) and (json_file := _json_in(path)):
        return _read_json(json_file, root, format, reading)
    kind = "not in a known format" if format is None else f"not in the format {format!r}"
    raise DataError(f"{path} is {kind}: it is {seen(path)}", _pictures_alone(path) + fitting())


def _read_other(path: Path, root: Path | None, format: str | None, reading: Reading) -> Listing | None:
    """The listing of a format that is not json; None when the path is not of that format."""
    if format == "imagefolder" and imagefolder.metadata_of(path):
        return imagefolder.read(path, root, reading)
    if format == "table" and (file := _table_in(path)):
        return table.read(file, root, reading)
    if format == "files" and path.is_dir():
        return text_beside.read(path, reading)
    if format == "webdataset":
        return webdataset.read(str(path), reading)
    if (format == "datasets" and path.is_dir()) or (format == "parquet" and disk_dataset.parquet_files(path)):
        return disk_dataset.read(path, reading)
    return None


def _pictures_alone(path: Path) -> str:
    """Advice for a folder of images without captions."""
    if path.is_dir() and text_beside.is_one(path, pictures=True):
        return "it holds images without captions: with --captions source the source describes them\n"
    return ""


def look(path: Path, pictures: bool = False) -> str | None:
    """The format of a path, seen by its names; None for json, which is told by its content, and for what is unknown."""
    if imagefolder.metadata_of(path):
        return "imagefolder"
    if path.is_dir() and disk_dataset.is_one(path):
        return "datasets"
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return "webdataset"
    if path.is_file() and path.suffix == ".parquet":
        return "parquet"
    if _json_in(path):
        return None
    if _table_in(path):
        return "table"
    if path.is_dir() and text_beside.is_one(path, pictures):
        return "files"
    return "parquet" if path.is_dir() and disk_dataset.parquet_files(path) else None


def _json_in(path: Path) -> Path | None:
    """The json file that a path is, or the one in a folder."""
    return _only([file for file in _annotations(path) if _name(file).suffix in JSON_SUFFIXES])


def _table_in(path: Path) -> Path | None:
    """The table that a path is, or the one in a folder."""
    likely = [file for file in _annotations(path) if _name(file).suffix in table.SUFFIXES]
    likely = likely if len(likely) <= MOST_TABLES else [f for f in likely if _name(f).stem in CAPTIONS_FILES]
    return _only([file for file in likely if table.fits(file)])


def _annotations(path: Path) -> list[Path]:
    """The files that may say something of all pictures: a path itself, or those of a folder that are not the text of
    one picture beside them and not other programs' notes."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    files = sorted(file for file in path.iterdir() if file.suffix and file.is_file())
    pictures = {file.stem for file in files if file.suffix[1:].lower() in text_beside.IMAGES}
    return [file for file in files if file.stem not in pictures and not file.name.endswith(NOTES)]


def _only(files: list[Path]) -> Path | None:
    """The file whose name says captions, or the only one."""
    named = [file for file in files if _name(file).stem in CAPTIONS_FILES]
    return next((some[0] for some in (named, files) if len(some) == 1), None)


def _name(file: Path) -> Path:
    return Path(file.name.removesuffix(".gz"))


def _read_json(file: Path, root: Path | None, format: str | None, reading: Reading) -> Listing:
    data = read_json(file)
    names = _fitting(data, reading)
    if not names and isinstance(data, dict) and (names := _fitting([data], reading)):
        data = [data]  # one row alone
    if not names and (inner := _rows_in(data)) and (names := _fitting(inner, reading)):
        data = inner
    name = format or (names[0] if names else None)
    if name is None or name not in names:
        asked = f"not in the format {format!r}" if format else "not in a known format"
        raise DataError(f"{file} is {asked}: it holds {_shape(data)}", fitting())
    return JSON_FORMATS[name].read(data, file, root, reading)


def _rows_in(data: Any) -> list[Any]:
    """The rows of an object whose keys are names of images, or which holds one list beside notes such as a version."""
    if not isinstance(data, dict):
        return []
    if all(Path(name).suffix[1:].lower() in text_beside.IMAGES for name in data):
        return [{"image": name, "caption": said} for name, said in data.items()]
    lists = [value for value in data.values() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 else []


def _fitting(data: Any, reading: Reading) -> list[str]:
    return [name for name, known in JSON_FORMATS.items() if known.fits(data, reading)]


def _shape(data: Any) -> str:
    """What parsed json looks like, in a few words."""
    if isinstance(data, dict):
        more = f" and {len(data) - 8} more" if len(data) > 8 else ""
        return f"an object with the keys {', '.join(map(repr, list(data)[:8])) or '(none)'}{more}"
    if isinstance(data, list):
        return f"a list of {len(data)} rows" + (f", the first {_shape(data[0])}" if data else "")
    return f"a {type(data).__name__}"


def seen(path: Path) -> str:
    """What lies at a path, in a few words."""
    if path.is_file():
        return f"a file of {path.stat().st_size} bytes" + _beginning(path)
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder with {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _beginning(path: Path) -> str:
    """How a file is packed, or with what text it begins."""
    with open_regular(path)[0] as file:
        head = file.read(HEAD)
    if kind := packing(head):
        return f", compressed ({kind}): unpack it first"
    first = head.decode("utf-8", errors="replace").strip().partition("\n")[0]
    return f" that begins with {first!r}" if first and first.isprintable() else ""


def fitting() -> str:
    """The supported formats, for error messages."""
    shapes = {name: known.looks_like for name, known in JSON_FORMATS.items()} | OTHER_FORMATS
    return (
        "supported formats:\n"
        + "\n".join(f"  {name}: {shape}" for name, shape in shapes.items())
        + "\n--caption-key KEY reads captions under another key"
    )

"""A folder of images with ``metadata.jsonl`` or ``metadata.csv`` (Hugging Face's imagefolder)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.json_rows import Row, as_list, gathered, listing_of, text_field
from vpgtrans_core.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv")
NAME_FIELDS = ("file_name", "image", "file")
CAPTION_FIELDS = ("text", "caption", "captions")


def metadata_of(path: Path) -> Path | None:
    """The metadata file of a folder (its own, or that of its ``train`` part), or the file itself."""
    if path.is_file():
        return path if path.name in METADATA else None
    return next((f for folder in (path, path / "train") for name in METADATA if (f := folder / name).is_file()), None)


def read(path: Path, root: Path | None, clean: Callable[[str], str]) -> Listing:
    """Make the listing. Lines that name the same image are gathered: their captions stay together.

    Raises:
        DataError: there is no metadata file, it cannot be read, or no line is usable.
    """
    file = metadata_of(path) or path
    builder = ListingBuilder(str(path), "imagefolder", clean)
    try:
        return listing_of(gathered(_rows(file, builder)), builder, file, root)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}", "check that the file is whole and UTF-8") from error


def _rows(file: Path, builder: ListingBuilder) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = _json_lines(lines) if file.suffix == ".jsonl" else csv.DictReader(lines)
        for number, row in enumerate(rows):
            name, captions = text_field(row, *NAME_FIELDS), as_list(text_field(row, *CAPTION_FIELDS))
            if not isinstance(name, str) or not name:
                builder.skip(f"line {number + 1}", bad.BAD_ROW, f"no {NAME_FIELDS[0]}")
            elif not captions:
                builder.skip(name, bad.MISSING_TEXT, f"none of {', '.join(CAPTION_FIELDS)}")
            else:
                yield Row(name, name, captions)


def _json_lines(lines: Any) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None  # counted as a bad row

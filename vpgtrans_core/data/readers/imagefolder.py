"""A folder of images with ``metadata.jsonl`` or ``metadata.csv`` (Hugging Face's imagefolder)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers import table
from vpgtrans_core.data.readers.fields import CAPTIONS, PICTURES, Reading
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of
from vpgtrans_core.data.regular import read_text
from vpgtrans_core.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
NAME_FIELDS = ("file_name", *PICTURES)
CAPTION_FIELDS = ("text", *CAPTIONS)


def metadata_of(path: Path) -> Path | None:
    """The metadata file of a folder (its own, or that of its ``train`` part), or the file itself."""
    if path.is_file():
        return path if path.name in METADATA else None
    return next((f for folder in (path, path / "train") for name in METADATA if (f := folder / name).is_file()), None)


def read(path: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing. Lines that name the same image are gathered: their captions stay together.

    Raises:
        DataError: there is no metadata file, it cannot be read, or no line is usable.
    """
    file = metadata_of(path) or path
    fields = reading.captions(*CAPTION_FIELDS)
    builder = ListingBuilder(str(path), "imagefolder", reading.clean_caption, table.wanted(fields))
    if file.suffix == ".jsonl":
        rows = _json_rows(file, builder, fields)
    else:
        rows = table.table_rows(file, builder, NAME_FIELDS, fields)
    return listing_of(gathered(rows, builder), builder, file, root)


def _json_rows(file: Path, builder: ListingBuilder, fields: tuple[str, ...]) -> Iterator[Row]:
    try:
        lines = read_text(file).split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {file}: {error}", "check that the file is complete and in UTF-8") from error
    for number, line in enumerate(lines):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None  # counted as a bad row
            yield from table.row_of(f"line {number + 1}", row, builder, NAME_FIELDS, fields)

"""Reading json from outside, and the rows of image names and captions that most json formats come to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.listing import FileImages, Listing, ListingBuilder
from vpgtrans_core.data.readers.image_root import find_root
from vpgtrans_core.data.strings import StringsBuilder
from vpgtrans_core.errors import DataError


@dataclass(frozen=True)
class Row:
    """One image by file name, with its texts (`str`, `Caption` or `Conversation`), and the names of further images that
    the texts are about."""

    key: str
    name: str
    captions: list[Any]
    more: tuple[str, ...] = ()


def read_json(file: Path) -> Any:
    """Parse a json file, or the lines of a ``.jsonl`` file as a list.

    Raises:
        DataError: the file cannot be read, is empty, or is no json.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise DataError(f"{file} is empty", "give a file with captions")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}", "check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no valid json: {error}", "check that the file is whole") from error


def text_field(row: Any, *names: str) -> Any:
    """The first of these fields that a row has, or None."""
    return next((row[name] for name in names if row.get(name) is not None), None) if isinstance(row, dict) else None


def as_list(value: Any) -> list[Any]:
    """Captions as a list, whether one or many were given."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def gathered(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows that name the same image made one, so that its captions stay together; in the order of first mention."""
    by_name: dict[tuple[str, ...], Row] = {}
    for row in rows:
        empty = Row(row.key, row.name, [], row.more)
        by_name.setdefault((row.name, *row.more), empty).captions.extend(row.captions)
    yield from by_name.values()


def listing_of(rows: Iterable[Row], builder: ListingBuilder, file: Path, root: Path | None) -> Listing:
    """Make the listing of rows that name image files; `root` is the images' folder where the user gave one.

    Raises:
        DataError: no row is usable, or none of the images is found.
    """
    names = StringsBuilder()
    for row in rows:
        if builder.add(row.key, row.captions, images=1 + len(row.more)):
            for name in (row.name, *row.more):
                names.append(name)
    found = names.build()
    if not len(found):
        raise nothing_usable(builder, file)
    return builder.build(FileImages(str(find_root(file, found, root)), found), [file])


def nothing_usable(builder: ListingBuilder, file: Path | str) -> DataError:
    """The error for a source without a single usable sample."""
    kinds = ", ".join(f"{count} x {kind}" for kind, count in builder.bad.counts.most_common())
    seen = [f"{kinds} (first: {builder.bad.named[0]})"] if kinds else []
    if builder.uncaptioned:
        seen.append(f"{builder.uncaptioned} images without caption")
    return DataError(
        f"{file} ({builder.format}) holds no captioned image" + (f": {'; '.join(seen)}" if seen else ""),
        "give data with at least one image and one caption",
    )

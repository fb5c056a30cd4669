"""Reading json from outside, and the rows of image names and captions that most formats come to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import FileImages, Listing, ListingBuilder
from vpgtrans_core.data.places import below, missing
from vpgtrans_core.data.readers.image_root import find_root
from vpgtrans_core.data.regular import read_text
from vpgtrans_core.data.strings import Strings, StringsBuilder
from vpgtrans_core.errors import DataError

_SPACE = re.compile(r"\s*")
SHOWN = 8
"""Lines that are not json that a message names."""


@dataclass(frozen=True)
class Row:
    """One image by file name, with its captions (texts, `Caption` or `Conversation`); `more` names further images of
    the same sample."""

    key: str
    name: str
    captions: list[Any]
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.more


def read_json(file: Path) -> Any:
    """Parse a json file, or one with a json object a line as a list, whichever its name says; ``.gz`` is unpacked.

    Raises:
        DataError: the file cannot be read, is empty, or is not json.
    """
    return read_rows(file)[0]


def read_rows(file: Path) -> tuple[Any, list[int]]:
    """As `read_json`; of a file with an object a line also the number of each object's line, else none.

    Raises:
        DataError: as in `read_json`; each line that is not json is named.
    """
    try:
        text = read_text(file)
        if not text.strip():
            raise DataError(f"{file} is empty", "give a file with captions")
        return _lines(text) if _holds_lines(file, text) else (_whole(text), [])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid json: {error}", "check that the file is complete") from error


def _whole(text: str) -> Any:
    """One json value; or the objects of a text that holds several, one after the other, as a list."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
    rows, decoder = [], json.JSONDecoder()
    place = _SPACE.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        row, place = decoder.raw_decode(text, place)
        rows.append(row)
        place = _SPACE.match(text, place).end()  # type: ignore[union-attr]
    return rows


def _holds_lines(file: Path, text: str) -> bool:
    """Whether each line is an object of its own: its name says so, or the first line alone is one and more follow."""
    first, _, rest = text.lstrip().partition("\n")
    if ".jsonl" in file.suffixes or ".ndjson" in file.suffixes:
        return not first.rstrip().startswith("[")
    if not rest.strip() or not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(text: str) -> tuple[list[Any], list[int]]:
    """One json value a line, and the numbers of the lines. Only line feeds end a line: json may hold other separators
    (U+2028) in a text."""
    rows, numbers, wrong = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
                numbers.append(number)
            except (ValueError, RecursionError) as error:
                wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more lines" if len(wrong) > SHOWN else ""
        raise ValueError("; ".join(wrong[:SHOWN]) + more)
    return rows, numbers


def gathered(rows: Iterable[Row], builder: ListingBuilder) -> Iterator[Row]:
    """Rows that name the same image made one, so that its captions stay together; in the order of first mention."""
    by_name: dict[tuple[str, ...], Row] = {}
    for row in rows:
        builder.bad.good()
        by_name.setdefault(
            tuple(map(os.path.normpath, row.names)), Row(row.key, row.name, [], row.more)
        ).captions.extend(row.captions)
    yield from by_name.values()


def listing_of(rows: Iterable[Row], builder: ListingBuilder, file: Path, root: Path | None) -> Listing:
    """Make the listing of rows that name image files; `root` is the images' folder where the user gave one. Images
    that are not there are counted now, before anything is trained.

    Raises:
        DataError: no row is usable, or none of the images is found.
    """
    every = list(rows)
    named = Strings.of(name for row in every if row.captions or builder.pictures for name in row.names)
    if not len(named):
        raise nothing_usable(builder, file, len(every))
    folder = find_root(file, named, root)
    names, keys = StringsBuilder(), []
    for row in every:
        key = _portable(folder, row)
        if builder.add(key, row.captions, images=len(row.names)):
            for name in row.names:
                names.append(name)
                keys.append(key)
    found = names.build()
    if not len(found):
        raise nothing_usable(builder, file)
    absent = {keys[number]: (kind, detail) for number, kind, detail in missing(folder, found)}
    for key, (kind, detail) in absent.items():
        builder.note_absent(key, kind, detail)
    return builder.build(FileImages(str(folder), found), [file])


def _portable(folder: Path, row: Row) -> str:
    """A row's key; one that is an absolute path is taken below the images' folder, so that moved data is the same."""
    if row.key != row.name or not os.path.isabs(row.name):
        return row.key
    try:
        path = below(folder, row.name)
    except BadSampleError:
        return row.key
    plain = os.path.abspath(folder)
    return os.path.relpath(path, plain if path.is_relative_to(plain) else os.path.realpath(folder))


def nothing_usable(builder: ListingBuilder, file: Path | str, uncaptioned: int = 0) -> DataError:
    """The error for a source without a single usable sample: what is wrong, and what it holds instead."""
    kinds = ", ".join(f"{count} x {kind}" for kind, count in builder.bad.counts.most_common())
    seen = [f"{kinds} (first: {builder.bad.named[0]})"] if kinds else []
    if count := builder.uncaptioned + uncaptioned:
        seen.append(f"{count} images without a caption")
    if builder.imageless:
        seen.append(f"{builder.imageless} texts without an image")
    if builder.met:
        met = ", ".join(f"{name} ({count})" for name, count in builder.met.most_common(12))
        seen.append(f"it holds: {met}" + (f" and {len(builder.met) - 12} more" if len(builder.met) > 12 else ""))
    return DataError(
        f"{file} ({builder.format}) holds no captioned image" + (f": {'; '.join(seen)}" if seen else ""),
        builder.wanted or "give data with at least one captioned image",
    )

"""Tables of file names and captions: a header and columns separated by ``,``, ``;``, ``|`` or a tab, and Flickr's
token files, whose lines are ``NAME.jpg#0<tab>CAPTION``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import CAPTIONS, PICTURES, Reading, as_list, keys_of, text_field
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of
from vpgtrans_core.data.regular import read_head, read_text
from vpgtrans_core.errors import DataError

SUFFIXES = (".csv", ".tsv", ".txt", ".token")
SEPARATORS = ",;\t|"
_MARK = re.compile(r'"?sep=.?"?')
_TOKEN = re.compile(r"^(?P<name>[^\t]+?\.\w{3,4})#\d+(?:\t|\s{2,}| )(?P<text>.*)$")


def fits(file: Path) -> bool:
    """Whether a text file is such a table: it has a header of several columns, one of them the image's, or its first
    line is a token."""
    name = file.name.removesuffix(".gz")
    if not name.lower().endswith(SUFFIXES) or not file.is_file():
        return False
    try:
        first = _without_mark(read_head(file)).lstrip().partition("\n")[0]
    except DataError:
        return False
    columns = _columns(first, separator_of(first))
    return bool(_TOKEN.match(first)) or (len(columns) > 1 and bool(set(columns) & set(PICTURES)))


def read(file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; lines that name the same image are gathered.

    Raises:
        DataError: the file cannot be read, or no line is usable.
    """
    fields = reading.captions(*CAPTIONS)
    builder = ListingBuilder(str(file), "table", reading.clean_caption, wanted(fields))
    return listing_of(gathered(table_rows(file, builder, PICTURES, fields), builder), builder, file, root)


def wanted(fields: tuple[str, ...]) -> str:
    """What is read of a table, for the hint when nothing fits."""
    return (
        f"columns are separated by , ; | or a tab; the image is read from {', '.join(PICTURES)}, the caption from "
        f"{', '.join(fields)}; name another column with --caption-key"
    )


def table_rows(file: Path, builder: ListingBuilder, names: tuple[str, ...], fields: tuple[str, ...]) -> Iterator[Row]:
    """The usable rows of a table.

    Raises:
        DataError: the file cannot be read or is not UTF-8.
    """
    try:
        text = _without_mark(read_text(file))
        first = text.lstrip().partition("\n")[0]
        if _TOKEN.match(first):
            yield from _token_rows(text, builder)
            return
        fields = tuple(map(_column, fields))
        for number, row in enumerate(_dicts(text, first, fields)):
            if row is None:
                builder.skip(f"line {number + 1}", bad.BAD_ROW, "it has more columns than the header")
            else:
                yield from row_of(f"line {number + 1}", row, builder, names, fields)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}", "check that the file is complete and in UTF-8") from error


def row_of(
    key: str, row: Any, builder: ListingBuilder, names: tuple[str, ...], fields: tuple[str, ...]
) -> Iterator[Row]:
    """One row, when it names a picture and says something of it; else what is wrong is counted."""
    name, captions = text_field(row, *names), as_list(text_field(row, *fields))
    if not isinstance(name, str) or not name:
        builder.skip(key, bad.BAD_ROW, f"no {names[0]}")
        builder.meet(keys_of(row))
    elif not captions:
        builder.skip(name, bad.MISSING_TEXT, f"none of {', '.join(fields)}")
        builder.meet(keys_of(row))
    else:
        yield Row(name, name, captions)


def separator_of(header: str) -> str:
    """What separates the columns of a header: the sign with which it has a picture's column, or the most frequent."""
    fitting = [sign for sign in SEPARATORS if set(_columns(header, sign)) & set(PICTURES) and sign in header]
    return fitting[0] if fitting else max(SEPARATORS, key=header.count)


def _without_mark(text: str) -> str:
    """A table without the line ``sep=;`` that spreadsheets put before the header."""
    first, _, rest = text.lstrip().partition("\n")
    return rest if _MARK.fullmatch(first.strip()) else text


def _columns(header: str, separator: str) -> list[str]:
    return [_column(column.strip().strip('"')) for column in header.split(separator)]


def _column(name: str) -> str:
    """The name of a column; a usual one may be written with capitals."""
    name = name.strip()
    return lower if (lower := name.lower()) in PICTURES + CAPTIONS else name


def _dicts(text: str, header: str, last: tuple[str, ...]) -> Iterator[dict[str, Any] | None]:
    """Each line by its columns. A line may have more values than there are columns only where the last column is one
    of `last`: a caption with separators in it. None for another one."""
    separator = separator_of(header)
    lines = csv.reader(
        io.StringIO(text.lstrip(), newline=""),
        delimiter=separator,
        strict=True,
        quoting=csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL,  # Flickr30k's captions hold single quotes
    )
    columns = [_column(column) for column in next(lines, [])]
    for values in lines:
        if len(values) > len(columns) and any(value.strip() for value in values[len(columns) :]):
            if columns[-1] not in last:
                yield None
                continue
            values = [*values[: len(columns) - 1], separator.join(values[len(columns) - 1 :])]
        if any(value.strip() for value in values):
            yield {
                column: value.strip() if column in PICTURES else value
                for column, value in zip(columns, values, strict=False)
            }


def _token_rows(text: str, builder: ListingBuilder) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        if match := _TOKEN.match(line.rstrip("\r")):
            yield Row(match["name"], match["name"], [match["text"]])
        else:
            builder.skip(f"line {number + 1}", bad.BAD_ROW, "not NAME#NUMBER, a tab and a caption")

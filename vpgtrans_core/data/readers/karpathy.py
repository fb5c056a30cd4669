"""The list of LAVIS's annotation files (Karpathy's split): ``[{"image", "caption", "image_id"}]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.json_rows import Row, as_list, gathered, listing_of, text_field

NAME_FIELDS = ("image", "file_name")
CAPTION_FIELDS = ("caption", "captions", "text")


def fits(data: Any) -> bool:
    """Whether parsed json has this format's shape."""
    rows = data[:100] if isinstance(data, list) else []
    return any(text_field(row, *NAME_FIELDS) and text_field(row, *CAPTION_FIELDS) is not None for row in rows)


def read(data: Any, file: Path, root: Path | None, clean: Callable[[str], str]) -> Listing:
    """Make the listing; rows of the same image are gathered, a caption may be one text or a list of them."""
    builder = ListingBuilder(str(file), "karpathy", clean)
    return listing_of(gathered(_rows(data, builder)), builder, file, root)


def _rows(data: Any, builder: ListingBuilder) -> Iterator[Row]:
    for number, row in enumerate(data):
        name, captions = text_field(row, *NAME_FIELDS), as_list(text_field(row, *CAPTION_FIELDS))
        if not isinstance(name, str) or not name:
            builder.skip(f"row {number + 1}", bad.BAD_ROW, "no image")
        elif not captions:
            builder.skip(f"row {number + 1}", bad.MISSING_TEXT, f"{name} has no caption")
        else:
            yield Row(name, name, captions)

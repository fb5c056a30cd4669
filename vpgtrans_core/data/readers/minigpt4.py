"""MiniGPT-4's ``filter_cap.json``: ``{"annotations": [{"image_id", "caption"}]}`` with images ``image/ID.jpg``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import Reading, as_list, text_field
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of


def fits(data: Any, reading: Reading) -> bool:
    """Whether parsed json has this format's shape."""
    rows = data.get("annotations") if isinstance(data, dict) and "images" not in data else None
    fields = set(reading.captions("caption"))
    return isinstance(rows, list) and any(
        isinstance(row, dict) and "image_id" in row and fields & set(row) for row in rows
    )


def read(data: Any, file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; captions of the same image are gathered."""
    builder = ListingBuilder(str(file), "minigpt4", reading.clean_caption)
    return listing_of(gathered(_rows(data, builder, reading.captions("caption")), builder), builder, file, root)


def _rows(data: Any, builder: ListingBuilder, fields: tuple[str, ...]) -> Iterator[Row]:
    for number, row in enumerate(data["annotations"]):
        image_id, captions = text_field(row, "image_id"), as_list(text_field(row, *fields))
        if not isinstance(image_id, (int, str)) or image_id == "":
            builder.skip(f"row {number + 1}", bad.BAD_ROW, "no image_id")
        elif not captions:
            builder.skip(f"row {number + 1}", bad.MISSING_TEXT, f"image {image_id} has no caption")
        else:
            yield Row(str(image_id), f"{image_id}.jpg", captions)

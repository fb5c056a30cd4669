"""COCO's caption format: ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.json_rows import Row, listing_of


def fits(data: Any) -> bool:
    """Whether parsed json has this format's shape."""
    return isinstance(data, dict) and isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list)


def read(data: Any, file: Path, root: Path | None, clean: Callable[[str], str]) -> Listing:
    """Make the listing; an image's captions stay together, images without annotation are only counted."""
    builder = ListingBuilder(str(file), "coco", clean)
    return listing_of(_rows(data, builder), builder, file, root)


def _rows(data: Any, builder: ListingBuilder) -> Iterator[Row]:
    captions: dict[Any, list[Any]] = {}
    for number, row in enumerate(data["annotations"]):
        if isinstance(row, dict) and isinstance(row.get("image_id"), (int, str)):
            if "caption" in row:
                captions.setdefault(row["image_id"], []).append(row["caption"])
            else:
                builder.skip(f"annotation {number + 1}", bad.MISSING_TEXT)
        else:
            builder.skip(f"annotation {number + 1}", bad.BAD_ROW, "no image_id")
    known = set()
    for number, row in enumerate(data["images"]):
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name or not isinstance(row.get("id"), (int, str)):
            builder.skip(f"image {number + 1}", bad.BAD_ROW, "no id or file_name")
            continue
        known.add(row["id"])
        yield Row(str(row["id"]), name, captions.get(row["id"], []))
    for image_id in (i for i in captions if i not in known):
        builder.skip(f"image_id {image_id}", bad.MISSING_IMAGE, "annotated, but not among the images")

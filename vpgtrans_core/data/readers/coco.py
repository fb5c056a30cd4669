"""COCO's caption format: ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import Reading, as_list, keys_of, text_field
from vpgtrans_core.data.readers.json_rows import Row, listing_of


def fits(data: Any, reading: Reading) -> bool:
    """Whether parsed json has this format's shape."""
    return isinstance(data, dict) and isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list)


def read(data: Any, file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; an image's captions stay together, images without annotation are only counted. Ids are
    matched whether they are written as numbers or as texts."""
    fields = reading.captions("caption", "captions", "text")
    wanted = f"captions are read from {', '.join(fields)} of the annotations; name another with --caption-key"
    builder = ListingBuilder(str(file), "coco", reading.clean_caption, wanted, reading.pictures)
    captions = _captions(data["annotations"], builder, fields)
    return listing_of(_rows(data["images"], captions, builder), builder, file, root)


def _captions(rows: list[Any], builder: ListingBuilder, fields: tuple[str, ...]) -> dict[str, list[Any]]:
    """The captions of each image id."""
    captions: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        image_id = _id(row, "image_id")
        texts = as_list(text_field(row, *fields))
        if image_id is None:
            builder.skip(f"annotation {number + 1}", bad.BAD_ROW, "no image_id")
        elif not texts:
            builder.skip(f"annotation {number + 1}", bad.MISSING_TEXT, f"none of {', '.join(fields)}")
            builder.meet(keys_of(row))
        else:
            builder.bad.good()
            captions.setdefault(image_id, []).extend(texts)
    return captions


def _rows(images: list[Any], captions: dict[str, list[Any]], builder: ListingBuilder) -> Iterator[Row]:
    known: set[str | None] = set()
    for number, row in enumerate(images):
        name, image_id = text_field(row, "file_name", "filename"), _id(row, "id")
        known.add(image_id)
        if not isinstance(name, str) or not name or image_id is None:
            builder.skip(f"image {number + 1}", bad.BAD_ROW, "no id or file_name")
            continue
        builder.bad.good()
        yield Row(str(row["id"]), name, captions.get(image_id, []))
    for image_id in (i for i in captions if i not in known):
        builder.skip(f"image_id {image_id}", bad.MISSING_IMAGE, "annotated, but not among the images")


def _id(row: Any, field: str) -> str | None:
    """An id as one text, however it is written: 7, 7.0, "7" and "000007" are the same."""
    value = text_field(row, field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        return None
    text = str(value).strip()
    return text.lstrip("0") or "0" if text.isdecimal() and text.isascii() else text

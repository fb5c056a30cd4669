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
    """The captions of each image id, as it is written."""
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
    ids = {image_id: None for row in images if (image_id := _id(row, "id")) is not None}
    captions = _matched(captions, list(ids))
    for number, row in enumerate(images):
        name, image_id = text_field(row, "file_name", "filename"), _id(row, "id")
        if not isinstance(name, str) or not name or image_id is None:
            builder.skip(f"image {number + 1}", bad.BAD_ROW, "no id or file_name")
            continue
        builder.bad.good()
        yield Row(str(row["id"]), name, captions.get(image_id, []))
    for image_id in (i for i in captions if i not in ids):
        builder.skip(f"image_id {image_id}", bad.MISSING_IMAGE, "annotated, but not among the images")


def _matched(captions: dict[str, list[Any]], ids: list[str]) -> dict[str, list[Any]]:
    """The captions by the ids of the images. Zeros in front make another id only where two images differ in them."""
    plain: dict[str, list[str]] = {}
    for image_id in ids:
        plain.setdefault(_plain(image_id), []).append(image_id)
    matched: dict[str, list[Any]] = {}
    for written, texts in captions.items():
        likely = plain.get(_plain(written), [])
        image_id = written if written in likely or len(likely) != 1 else likely[0]
        matched.setdefault(image_id, []).extend(texts)
    return matched


def _id(row: Any, field: str) -> str | None:
    """An id as text, whether it is written as a number (7, 7.0) or as a text."""
    value = text_field(row, field)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip().removesuffix(".0").isdecimal():
        value = value.strip().removesuffix(".0")  # a table of numbers with gaps writes 7.0
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    return str(value).strip() or None


def _plain(image_id: str) -> str:
    """An id without zeros in front: "000007" is 7."""
    return image_id.lstrip("0") or "0" if image_id.isdecimal() and image_id.isascii() else image_id

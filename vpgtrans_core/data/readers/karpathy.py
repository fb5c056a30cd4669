"""Two files of Karpathy's split: LAVIS's list ``[{"image", "caption"}]``, of which many files are made today, and his
own ``dataset_coco.json``: ``{"images": [{"filepath", "filename", "split", "sentences": [{"raw"}]}]}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import CAPTIONS, PICTURES, Reading, as_list, keys_of, picture, text_field
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of

TRAINED_ON = ("train", "restval")
"""The parts of his own files that captioning is trained on."""


def fits(data: Any, reading: Reading) -> bool:
    """Whether parsed json has this format's shape."""
    if _is_own(data):
        return True
    fields = reading.captions(*CAPTIONS)
    rows = data[:100] if isinstance(data, list) else []
    return any(text_field(row, *PICTURES) and text_field(row, *fields) is not None for row in rows)


def read(data: Any, file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; rows of the same image are gathered, a caption may be one text or a list of them. Of
    Karpathy's own files the parts train and restval are taken, or all when there are no such parts."""
    fields = reading.captions(*CAPTIONS)
    wanted = f"captions are read from {', '.join(fields)}; name another with --caption-key"
    builder = ListingBuilder(str(file), "karpathy", reading.clean_caption, wanted)
    rows = _own_rows(data["images"], builder) if _is_own(data) else _rows(data, builder, fields)
    return listing_of(gathered(rows, builder), builder, file, root)


def _is_own(data: Any) -> bool:
    rows = data.get("images") if isinstance(data, dict) else None
    return isinstance(rows, list) and any(isinstance(text_field(row, "sentences"), list) for row in rows[:100])


def _rows(data: list[Any], builder: ListingBuilder, fields: tuple[str, ...]) -> Iterator[Row]:
    for number, row in enumerate(data):
        key = f"row {number + 1}"
        try:
            name = picture(row)
        except BadSampleError as error:
            builder.skip(key, error.kind, error.detail)
            continue
        said = text_field(row, *fields)
        captions = as_list(said)
        if name is None:
            builder.skip(key, bad.BAD_ROW, "no image")
            builder.meet(keys_of(row))
        elif not captions and not isinstance(said, list):  # an empty list says that there are none
            builder.skip(key, bad.MISSING_TEXT, f"{name} has no caption")
            builder.meet(keys_of(row))
        else:
            yield Row(name, name, captions)


def _own_rows(images: list[Any], builder: ListingBuilder) -> Iterator[Row]:
    parts = any(text_field(row, "split") in TRAINED_ON for row in images)
    for number, row in enumerate(images):
        key = f"image {number + 1}"
        if parts and text_field(row, "split") not in TRAINED_ON and isinstance(row, dict):
            continue
        name, folder = text_field(row, "filename", "file_name"), text_field(row, "filepath")
        if not isinstance(name, str) or not name or not isinstance(folder, (str, type(None))):
            builder.skip(key, bad.BAD_ROW, "no filename")
            continue
        said = [text_field(one, "raw") or one for one in as_list(text_field(row, "sentences"))]
        if said:
            whole = f"{folder.rstrip('/')}/{name}" if folder else name
            yield Row(whole, whole, said)
        else:
            builder.skip(key, bad.MISSING_TEXT, f"{name} has no sentence")

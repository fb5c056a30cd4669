"""The fields of a row from outside: which image it names, and its captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.captions import clean, keep

PICTURES = ("image", "images", "file_name", "filename", "filepath", "image_path", "image_name", "img", "file", "path")
CAPTIONS = ("caption", "captions", "text", "texts", "sentences", "comment", "sentence", "description", "title")


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    Attributes:
        clean: how captions are cleaned; None for the format's own way: captions as in the paper, conversations kept.
        caption_key: the field, column or json key that holds the captions; None for the usual ones.
        hashes: compare tar shards with the SHA-256 of their manifest.
        pictures: keep images without captions, where the format has them: in folders, tar shards and COCO's json.
    """

    clean: Callable[[str], str] | None = None
    caption_key: str | None = None
    hashes: bool = False
    pictures: bool = False

    @property
    def clean_caption(self) -> Callable[[str], str]:
        return self.clean or clean

    @property
    def clean_answer(self) -> Callable[[str], str]:
        return self.clean or keep

    def captions(self, *usual: str) -> tuple[str, ...]:
        """The fields in which a caption is looked for."""
        return (self.caption_key,) if self.caption_key else usual or CAPTIONS


def text_field(row: Any, *names: str) -> Any:
    """The first of these fields that a row has, or None."""
    return next((row[name] for name in names if row.get(name) is not None), None) if isinstance(row, dict) else None


def as_list(value: Any) -> list[Any]:
    """Captions as a list, whether one or many were given."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def pictures(row: Any, *names: str) -> list[str]:
    """The file names of the images of a row, in one of these fields (`PICTURES` by default): one, a list of them, or as
    ``{"path": ...}``.

    Raises:
        BadSampleError: one of them is something else than a name.
    """
    values = as_list(text_field(row, *(names or PICTURES)))
    values = [text_field(value, "path", "url", "image") if isinstance(value, dict) else value for value in values]
    for value in values:
        if value is not None and not isinstance(value, str):
            raise BadSampleError(bad.BAD_ROW, f"its image is not a file name but {value!r}"[:120])
    return [value for value in values if value]


def picture(row: Any, *names: str) -> str | None:
    """The file name of the one image of a row, as `pictures` finds it; None when it names none.

    Raises:
        BadSampleError: it names several, or something that is not a name.
    """
    named = pictures(row, *names)
    if len(named) > 1:
        raise BadSampleError(bad.BAD_ROW, f"it names {len(named)} images, but a row may have one")
    return named[0] if named else None


def keys_of(row: Any) -> Iterator[str]:
    """The keys of a row for a message, with a word on those that hold nothing."""
    if isinstance(row, dict):
        yield from (f"{key} (null)" if value is None else str(key) for key, value in row.items())

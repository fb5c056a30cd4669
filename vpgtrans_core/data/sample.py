"""The unit of data: one image with its captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ImageRef(Protocol):
    """Where an image's bytes are. Opening and decoding pass through `vpgtrans_core.data.images.decode`."""

    @property
    def name(self) -> str:
        """A name to show in reports, for instance the path below the data's root."""
        ...

    def read(self) -> bytes:
        """Return the encoded bytes.

        Raises:
            OSError: the file or tar member cannot be read.
        """
        ...


@dataclass(frozen=True)
class Caption:
    """A text that the LLM learns to say of an image, after `prompt` (empty for plain captioning)."""

    text: str
    prompt: str = ""


@dataclass(frozen=True)
class Sample:
    """One image and its captions. `key` names it within its source and never changes between runs."""

    key: str
    image: ImageRef
    captions: tuple[Caption, ...]

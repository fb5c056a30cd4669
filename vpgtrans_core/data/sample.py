"""The unit of data: one image with its captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


VisualKind = Literal["pixels", "features", "outputs"]
"""What a batch carries of its images: pixels, the VPG's frozen features, or the VPG's outputs."""
CachedKind = Literal["features", "outputs"]
"""What a cache keeps of them."""
View = tuple[int, int, int]
"""Data source, image in it, and augmented view."""


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
            BadSampleError: it may not be read (it lies outside the data's root, or is too large).
        """
        ...


@dataclass(frozen=True)
class InMemoryImage:
    """An image that is already decoded: of the miniature world, or made by the caller. It has no encoded bytes."""

    name: str
    image: Image

    def read(self) -> bytes:
        raise OSError(f"{self.name} lives in memory and has no encoded bytes")


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

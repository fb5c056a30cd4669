"""The unit of data: an image, or several, with the texts about it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vpgtrans_core.data.conversation import Caption, Conversation, ImageMark, Span

if TYPE_CHECKING:
    from PIL.Image import Image


VisualKind = Literal["pixels", "features", "outputs"]
"""What a batch carries of its images: pixels, the VPG's frozen features, or the VPG's outputs."""
CachedKind = Literal["features", "outputs"]
"""What a cache keeps of them."""
View = tuple[int, ...]
"""Data source, sample in it, augmented view, and which of the sample's images (0 where it is left out)."""


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
class Sample:
    """Images, most often one, and the texts about them. `key` names it within its source and never changes between
    runs."""

    key: str
    images: tuple[ImageRef, ...]
    texts: tuple[Caption | Conversation, ...]

    @property
    def image(self) -> ImageRef:
        """The first of its images, and most often the only one."""
        return self.images[0]

    @property
    def captions(self) -> tuple[Caption, ...]:
        """Its texts as captions: of a conversation each answer alone."""
        return tuple(c for text in self.texts for c in ((text,) if isinstance(text, Caption) else text.captions()))

    def conversations(self, asked_by: str = "") -> tuple[Conversation, ...]:
        """Its texts as conversations: a caption answers its prompt, or `asked_by` where it has none."""
        return tuple(
            Conversation.about_image(text.prompt or asked_by, text.text) if isinstance(text, Caption) else text
            for text in self.texts
        )


class Encoder(Protocol):
    """Makes what an LLM reads and learns of texts; the data only carries it. Picklable: it travels to workers.

    Both raise BadSampleError where the LLM can make no use of a text."""

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Any:
        """A caption, at most `max_tokens` long."""
        ...

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> Any:
        """A conversation, as its template has written it."""
        ...

    def words(self, text: str) -> tuple[int, ...]:
        """The tokens of words that stand between the tiles of a picture."""
        ...


__all__ = ["Caption", "Encoder", "ImageRef", "InMemoryImage", "Sample"]

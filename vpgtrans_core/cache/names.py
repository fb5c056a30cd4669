"""The name of a cache entry: which image, and which view of it.

An image is known by its bytes. So a file that changed is another image, and the same image is found again under
another path, in another listing or in a shard.
"""

from __future__ import annotations

import hashlib

from vpgtrans_core.cache.shards import NAME_BYTES
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.loader import ReadOptions, drawn_from
from vpgtrans_core.data.sample import ImageRef, InMemoryImage


class EntryNames:
    """Names of the views of a data set's images, as `options` shows them. Picklable."""

    def __init__(self, data: Data, options: ReadOptions) -> None:
        self.data = data
        self.options = options

    def name(self, source: int, row: int, view: int, image: int = 0) -> bytes | None:
        """16 bytes for a view of a sample's `image`-th image; None when it cannot be read."""
        sample = self.data.sample(source, row)
        if (digest := _digest(sample.images[image])) is None:
            return None
        if (augmentation := self.options.augmentation) is not None:
            # All that the reader draws a view from.
            drawn = "|".join(map(str, drawn_from(source, sample.key, view, image)))
            digest.update(f"{augmentation}|{self.options.seed}|{drawn}".encode())
        return digest.digest()


def plain_name(image: ImageRef) -> bytes | None:
    """16 bytes for the plain view of an image, whichever data set it belongs to; None when it cannot be read."""
    digest = _digest(image)
    return None if digest is None else digest.digest()


def _digest(image: ImageRef) -> hashlib.blake2b | None:
    try:
        return hashlib.blake2b(content_of(image), digest_size=NAME_BYTES)
    except (OSError, ValueError, BadSampleError):
        return None


def content_of(ref: ImageRef) -> bytes:
    """What an image is known by: its file's bytes, or its pixels where it was never a file."""
    if isinstance(ref, InMemoryImage):
        return f"{ref.image.mode}{ref.image.size}".encode() + ref.image.tobytes()
    return ref.read()

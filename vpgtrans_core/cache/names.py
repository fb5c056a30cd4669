"""The name of a cache entry: which image, and which view of it.

A picture is known by its bytes. So a file that changed is another picture, and the same picture is found again under
another path, in another listing or in a shard.
"""

from __future__ import annotations

import hashlib

from vpgtrans_core.cache.shards import NAME_BYTES
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.loader import ReadOptions
from vpgtrans_core.data.sample import ImageRef, InMemoryImage


class EntryNames:
    """Names of the views of a data set's images, as `options` shows them. Picklable."""

    def __init__(self, data: Data, options: ReadOptions) -> None:
        self.data = data
        self.options = options

    def name(self, source: int, row: int, view: int) -> bytes | None:
        """16 bytes; None when the image cannot be read."""
        sample = self.data.sample(source, row)
        try:
            digest = hashlib.blake2b(_content(sample.image), digest_size=NAME_BYTES)
        except (OSError, ValueError, BadSampleError):
            return None
        if (augmentation := self.options.augmentation) is not None:
            # All that the reader draws a view from.
            digest.update(f"{augmentation}|{self.options.seed}|{source}|{sample.key}|{view}".encode())
        return digest.digest()


def _content(ref: ImageRef) -> bytes:
    if isinstance(ref, InMemoryImage):
        return f"{ref.image.mode}{ref.image.size}".encode() + ref.image.tobytes()
    return ref.read()

"""An image's content as a short hash: the same picture has the same one wherever it lies."""

from __future__ import annotations

import hashlib

from vpgtrans_core.cache.names import content_of
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.sample import ImageRef


def sha_of(image: ImageRef) -> str:
    """A hash of an image's content; empty where it cannot be read."""
    try:
        return hashlib.blake2b(content_of(image), digest_size=16).hexdigest()
    except (OSError, ValueError, BadSampleError):
        return ""

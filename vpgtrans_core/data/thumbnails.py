"""A small picture inside a page: a JPEG as a ``data:`` address."""

from __future__ import annotations

import base64
import io

from vpgtrans_core.data.images import open_image
from vpgtrans_core.data.sample import ImageRef


def data_address(image: ImageRef, side: int) -> str:
    """The image, no side longer than `side` pixels.

    Raises:
        BadSampleError: it cannot be read.
    """
    picture = open_image(image)
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"

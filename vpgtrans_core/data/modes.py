"""From every mode in which Pillow holds an image to RGB, so that the image looks the same."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_DIRECT = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_TRANSPARENT = ("LA", "PA", "RGBA", "RGBa")


def to_rgb(image: Image.Image, depth: int = 8) -> Image.Image:
    """Bring an image to RGB; what is transparent is laid on white.

    Args:
        image: of any mode.
        depth: bits of a sample in the file it was read from.

    Raises:
        BadSampleError: its mode does not say which value is black and which is white (``I``, ``F``), or it has no way
            to RGB (``LAB``).
    """
    if image.mode in _DEEP or (image.mode == "I" and depth == 16):
        return _from_deep_grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in _DIRECT + _TRANSPARENT:
        raise BadSampleError(
            bad.UNUSABLE_MODE, f"{image.mode} cannot be converted to RGB reliably; convert the image first"
        )
    if image.mode in _TRANSPARENT or image.info.get("transparency") is not None:
        return _on_white(_with_alpha(image, depth))
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """16-bit greys by their upper byte, as Pillow reads 16-bit colours; `convert` would make all above 255 white."""
    values = np.asarray(image).astype(np.int64)
    grey = (values.clip(0, 65535) >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _with_alpha(image: Image.Image, depth: int) -> Image.Image:
    """RGBA; a transparent colour is written in the file's own depth and compared in Pillow's eight bits."""
    clear = image.info.get("transparency")
    if image.mode == "1" and isinstance(clear, int):
        image = image.convert("L")
        image.info["transparency"] = 255 if clear else 0
    elif depth != 8 and image.mode in ("L", "RGB") and isinstance(clear, (int, tuple)):
        image = image.copy()
        values = clear if isinstance(clear, tuple) else (clear,)
        scaled = tuple(v >> 8 if depth == 16 else v * 255 // ((1 << depth) - 1) for v in values)
        image.info["transparency"] = scaled if isinstance(clear, tuple) else scaled[0]
    return image.convert("RGBA")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")

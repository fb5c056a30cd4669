"""The gate for images, and the way from an image to pixels.

Every encoded image from outside is opened by `decode` and nowhere else.
"""

from __future__ import annotations

import io
import random
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.metadata import without_metadata
from vpgtrans_core.data.modes import to_rgb
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.data.regular import MAX_BYTES
from vpgtrans_core.data.sample import ImageRef, InMemoryImage
from vpgtrans_core.data.tiles import Tiles, Visual

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64 << 20
"""Largest image, in pixels: above the largest camera images, below what exhausts memory."""


@dataclass(frozen=True)
class Augmentation:
    """The paper's augmentation: random resized crop, then a horizontal flip half of the time."""

    crop_min: float = 0.5
    crop_max: float = 1.0
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5


def decode(data: bytes) -> Image.Image:
    """Decode an image from outside to RGB: JPEG, PNG and WebP only, whole files only, of bounded size.

    Transparency is laid on white, as transformers' image processors do; the EXIF orientation is left alone, as the
    paper's code and transformers' processors do. Damage in what is only said about the pixels (EXIF, multi-picture
    and colour blocks) is passed over.

    Raises:
        BadSampleError: the bytes are no such image, damaged, too large, or of a mode that does not say what white
            is; `kind` says which.
    """
    if not data:
        raise BadSampleError(bad.EMPTY_FILE)
    if len(data) > MAX_BYTES:
        raise BadSampleError(bad.TOO_MANY_BYTES, f"{len(data)} bytes, at most {MAX_BYTES}")
    try:
        return _decode(data)
    except BadSampleError as error:
        if error.kind not in (bad.BROKEN_IMAGE, bad.TRUNCATED_IMAGE, bad.NO_IMAGE):
            raise
        plain = without_metadata(data)
        if plain is None:
            raise
        try:
            return _decode(plain)
        except BadSampleError:
            raise error from None


def _decode(data: bytes) -> Image.Image:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library of this process may have switched it on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow warns of metadata; damaged pixels are errors
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadSampleError(bad.TOO_MANY_PIXELS, f"{width} x {height}")
                return to_rgb(image, depth=_depth(data))
    except BadSampleError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError(bad.TOO_MANY_PIXELS, str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSampleError(bad.NO_IMAGE, f"not an image in {', '.join(FORMATS)} format") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        truncated = "truncated" in str(error).lower()
        raise BadSampleError(bad.TRUNCATED_IMAGE if truncated else bad.BROKEN_IMAGE, _short(error)) from error


def open_image(ref: ImageRef) -> Image.Image:
    """Read and decode what `ref` names, to RGB.

    Raises:
        BadSampleError: the file is missing, unreadable, outside its root, or no usable image.
    """
    if isinstance(ref, InMemoryImage):
        return _in_memory(ref.image)
    try:
        data = ref.read()
    except FileNotFoundError as error:
        raise BadSampleError(bad.MISSING_FILE) from error
    except (OSError, ValueError) as error:
        raise BadSampleError(bad.UNREADABLE_FILE, _short(error)) from error
    return decode(data)


def pixels(image: Image.Image, preprocessing: Preprocessing, crop: tuple[int, int, int, int] | None = None) -> Visual:
    """Resize an RGB image to the VPG's square: uint8 pixels ``[3, S, S]`` in 0-255; or cut it into `Tiles` of them.

    `preprocessing` says how, as the family's own processor does; `normalize` does the rest. The pixels stay bytes until
    then because bytes travel from the workers four times faster.

    Args:
        crop: the part (left, upper, right, lower) to use, in pixels of `image`; default all of it.
    """
    part = image.crop(crop) if crop else image
    if not preprocessing.tiled:
        return _bytes(preprocessing.fit(part))
    tiles = torch.stack([_bytes(tile) for tile in preprocessing.tiles(part)])
    return Tiles(tiles, (len(tiles),), (part.size,))


def _bytes(square: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Bring uint8 pixels ``[..., 3, S, S]`` to the VPG's input: fp32, scaled to 0-1, mean and deviation removed."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1)
    return (pixels.to(torch.float32) / 255 - mean) / std


def augmented(
    image: Image.Image, preprocessing: Preprocessing, augmentation: Augmentation, rng: random.Random
) -> Visual:
    """One augmented view of an RGB image as uint8 pixels ``[3, S, S]``, or as tiles; all chance comes from `rng`."""
    crop = _random_crop(image.size, augmentation, rng)
    flips = rng.random() < augmentation.flip
    if preprocessing.tiled:  # the picture is flipped, not each of its tiles
        part = image.crop(crop)
        return pixels(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flips else part, preprocessing)
    view = pixels(image, preprocessing, crop)
    assert isinstance(view, Tensor)
    return view.flip(-1) if flips else view


def _random_crop(size: tuple[int, int], augmentation: Augmentation, rng: random.Random) -> tuple[int, int, int, int]:
    """A box of random area and aspect inside the image; after ten misses the largest central one that fits."""
    width, height = size
    low, high = augmentation.aspect
    for _ in range(10):
        area = width * height * rng.uniform(augmentation.crop_min, augmentation.crop_max)
        aspect = low * (high / low) ** rng.random()
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, upper = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, upper, left + w, upper + h
    aspect = min(max(width / height, low), high)
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def _in_memory(image: Image.Image) -> Image.Image:
    try:
        return to_rgb(image)
    except (ValueError, OSError) as error:
        raise BadSampleError(bad.BROKEN_IMAGE, _short(error)) from error


def _depth(data: bytes) -> int:
    """Bits of a sample: PNG's header says them, the other formats have eight."""
    return data[24] if data.startswith(b"\x89PNG") else 8


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]

"""The gate for images, and parity of the pixels with transformers."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from tests.data.conftest import encoded, picture
from vpgtrans_core.data import bad, images
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import Augmentation, augmented, decode, normalize, open_image, pixels
from vpgtrans_core.data.listing import FileImage
from vpgtrans_core.data.sample import InMemoryImage
from vpgtrans_core.vpg.adapter import Preprocessing


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def modes() -> dict[str, bytes]:
    rgb = picture(1, (90, 61))
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.linspace(0, 255, 90 * 61, dtype=np.uint8).reshape(61, 90)))
    palette = rgb.convert("P")
    return {
        "rgb": saved(rgb),
        "jpeg": saved(rgb, "JPEG"),
        "webp": saved(rgb, "WEBP"),
        "grey": saved(rgb.convert("L")),
        "alpha": saved(alpha),
        "palette": saved(palette),
        "palette with transparency": saved(palette, transparency=bytes(range(256))),
        "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "bilevel": saved(rgb.convert("1")),
    }


@pytest.mark.parametrize("mode", modes())
@pytest.mark.parametrize("size", [24, 224])
def test_pixels_equal_transformers(mode: str, size: int) -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    processor = BlipImageProcessorPil(size={"height": size, "width": size})
    data = modes()[mode]
    preprocessing = Preprocessing(size)
    ours = normalize(pixels(decode(data), preprocessing), preprocessing)
    theirs = processor(decode(data), return_tensors="pt")["pixel_values"][0]
    assert ours.dtype == torch.float32 and ours.shape == (3, size, size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_way_to_rgb_equals_transformers() -> None:
    from transformers.image_transforms import convert_to_rgb

    for name, data in modes().items():
        theirs = np.asarray(convert_to_rgb(Image.open(io.BytesIO(data))))
        if name in ("alpha", "palette with transparency"):  # earlier versions of transformers drop the alpha
            continue
        assert np.array_equal(np.asarray(decode(data)), theirs), name


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert decode(saved(clear)).getpixel((0, 0)) == (255, 255, 255)


def test_the_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(picture(0, (40, 30)), "JPEG", exif=exif)).size == (40, 30)


def bomb() -> bytes:
    """A small PNG that says it has 144 million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def eps() -> bytes:
    return saved(picture(0), "EPS")


REFUSED = {
    "nothing": (b"", bad.EMPTY_FILE),
    "text": (b"no picture at all", bad.NO_IMAGE),
    "html": (b"<html>404</html>", bad.NO_IMAGE),
    "eps": (eps(), bad.NO_IMAGE),
    "gif": (saved(picture(0).convert("P"), "GIF"), bad.NO_IMAGE),
    "tiff": (saved(picture(0), "TIFF"), bad.NO_IMAGE),
    "bomb": (bomb(), bad.TOO_MANY_PIXELS),
    "cut jpeg": (encoded(0, "JPEG", (200, 200))[:6000], bad.TRUNCATED_IMAGE),
    "cut png": (encoded(0, "PNG", (200, 200))[:6000], bad.TRUNCATED_IMAGE),
    "flipped png": (encoded(0)[:300] + b"\xff\xff\xff" + encoded(0)[303:], bad.BROKEN_IMAGE),
    "cut webp": (encoded(0, "WEBP", (200, 200))[:2000], None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_image_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as another library may leave it
    data, kind = REFUSED[name]
    with pytest.raises(BadSampleError) as caught:
        decode(data)
    assert kind in (caught.value.kind, None)


def test_too_many_bytes_are_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(BadSampleError) as caught:
        decode(encoded(0))
    assert caught.value.kind == bad.TOO_MANY_BYTES


def test_names_stay_below_their_root_and_links_in_it_are_followed(tmp_path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(0))
    (tmp_path / "words").write_text("root:x:0:0")
    (root / "in.png").write_bytes(encoded(1))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path, target_is_directory=True)
    (root / "words.png").symlink_to(tmp_path / "words")
    (root / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("in.png", "link.png", "folder/secret.png", "./x/../in.png", "../root/in.png", str(root / "in.png")):
        assert open_image(FileImage(str(root), name)).size == (40, 30)
    refused = {
        "../secret.png": bad.OUTSIDE_ROOT,
        "folder/../../secret.png": bad.OUTSIDE_ROOT,
        str(tmp_path / "secret.png"): bad.OUTSIDE_ROOT,
        "/etc/passwd": bad.OUTSIDE_ROOT,
        "words.png": bad.NO_IMAGE,
        "dangling.png": bad.MISSING_FILE,
        "none.png": bad.MISSING_FILE,
        "nul\0.png": bad.UNREADABLE_FILE,
        "nul\0é.png": bad.UNREADABLE_FILE,
        ".": bad.UNREADABLE_FILE,
    }
    for name, kind in refused.items():
        with pytest.raises(BadSampleError) as caught:
            open_image(FileImage(str(root), name))
        assert caught.value.kind == kind, name


def test_augmentation_comes_from_its_generator_alone() -> None:
    image, preprocessing = picture(0, (80, 60)), Preprocessing(32)
    one, same, other = (augmented(image, preprocessing, Augmentation(), random.Random(s)) for s in (1, 1, 2))
    assert one.shape == (3, 32, 32) and one.dtype == torch.uint8
    assert torch.equal(one, same) and not torch.equal(one, other)
    whole = Augmentation(crop_min=1.0, aspect=(80 / 60, 80 / 60), flip=1.0)
    flipped = augmented(image, preprocessing, whole, random.Random(0))
    assert torch.equal(flipped.flip(-1), pixels(image, preprocessing))


@pytest.mark.parametrize("size", [(80, 60), (1, 1), (1, 300), (300, 1), (7, 5)])
def test_crops_lie_inside_and_are_of_the_right_area(size: tuple[int, int]) -> None:
    rng = random.Random(0)
    for _ in range(300):
        left, upper, right, lower = images._random_crop(size, Augmentation(), rng)
        assert 0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]
        if size == (80, 60):
            assert 0.45 < (right - left) * (lower - upper) / (80 * 60) <= 1
            assert 0.7 < (right - left) / (lower - upper) < 1.45


def test_images_in_memory_need_no_decoding() -> None:
    assert open_image(InMemoryImage("a", picture(0).convert("L"))).mode == "RGB"

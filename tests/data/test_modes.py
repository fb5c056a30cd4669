"""Every mode that Pillow opens means what it shows, or is counted; damage around the pixels costs no picture."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import encoded, picture
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import decode, open_image
from vpgtrans_core.data.metadata import without_metadata
from vpgtrans_core.data.sample import InMemoryImage


def chunk(kind: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def png(depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """Two pixels side by side, written by hand: Pillow cannot write all that it reads."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


WHITE = (255, 255, 255)
GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
PIXELS = {
    "16-bit grey": (png(16, GREY, struct.pack(">2H", 0x1234, 0xFE00)), (0x12,) * 3, (0xFE,) * 3),
    "16-bit grey, one clear": (
        png(16, GREY, struct.pack(">2H", 0x1234, 0x1235), chunk(b"tRNS", struct.pack(">H", 0x1234))),
        WHITE,
        (0x12,) * 3,
    ),
    "16-bit colour": (png(16, RGB, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0)), (0x12, 0x56, 0x9A), (0, 0, 0)),
    "16-bit colour, one clear": (
        png(16, RGB, struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0), chunk(b"tRNS", b"\x12\x34\x56\x78\x9a\xbc")),
        WHITE,
        (0, 0, 0),
    ),
    "16-bit grey and alpha": (png(16, GREY_ALPHA, struct.pack(">4H", 0x1200, 0xFFFF, 0, 0)), (0x12,) * 3, WHITE),
    "16-bit colour and alpha": (
        png(16, RGB_ALPHA, struct.pack(">8H", 0x1200, 0, 0, 0xFFFF, 0, 0, 0, 0)),
        (0x12, 0, 0),
        WHITE,
    ),
    "4-bit grey": (png(4, GREY, b"\x5a"), (0x55,) * 3, (0xAA,) * 3),
    "4-bit grey, one clear": (png(4, GREY, b"\x5a", chunk(b"tRNS", b"\0\x05")), WHITE, (0xAA,) * 3),
    "1 bit": (png(1, GREY, b"\x40"), (0, 0, 0), WHITE),
    "1 bit, black is clear": (png(1, GREY, b"\x40", chunk(b"tRNS", b"\0\0")), WHITE, WHITE),
    "8-bit grey, one clear": (png(8, GREY, b"\x07\x70", chunk(b"tRNS", b"\0\x07")), WHITE, (0x70,) * 3),
}


@pytest.mark.parametrize("name", PIXELS)
def test_a_png_of_any_depth_means_what_it_shows(name: str) -> None:
    data, left, right = PIXELS[name]
    assert [decode(data).getpixel((x, 0)) for x in (0, 1)] == [left, right]


def in_mode(mode: str) -> Image.Image:
    colours = picture(3)
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}
    if mode.startswith("I;"):
        return Image.new(mode, (4, 4), 0x8000)
    if mode == "LAB":
        return Image.new(mode, (4, 4))
    return colours.convert(through[mode]).convert(mode) if mode in through else colours.convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_a_picture_in_memory_keeps_its_colours(mode: str) -> None:
    shown = open_image(InMemoryImage("a", in_mode(mode)))
    wanted = picture(3).convert("L" if mode in ("1", "L", "LA", "La") else "RGB").convert("RGB")
    difference = np.abs(np.asarray(shown, dtype=int) - np.asarray(wanted, dtype=int)).mean()
    assert shown.mode == "RGB" and difference < (130 if mode == "1" else 60 if mode in ("P", "PA") else 4)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_deep_greys_are_not_white(mode: str) -> None:
    assert open_image(InMemoryImage("a", in_mode(mode))).getpixel((0, 0)) == (0x80,) * 3


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_mode_that_does_not_say_what_white_is_is_counted(mode: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        open_image(InMemoryImage("a", in_mode(mode)))
    assert caught.value.kind == bad.UNUSABLE_MODE and mode in caught.value.detail


def cut_exif() -> bytes:
    """A directory that promises five entries and holds two, one of them beyond the end."""
    entries = struct.pack("<HHI4s", 0x0112, 3, 1, b"\1\0\0\0") + struct.pack("<HHII", 0x011A, 5, 1, 60000)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5) + entries


def with_segment(marker: int, body: bytes) -> bytes:
    data = encoded(1, "JPEG")
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def mpo(index: bytes) -> bytes:
    return with_segment(0xE2, b"MPF\0" + index)


def webp_with(name: bytes, flag: int, body: bytes) -> bytes:
    plain = encoded(1, "WEBP")
    wide = chunk_of = plain[12:]
    header = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes([flag, 0, 0, 0])
        + (39).to_bytes(3, "little")
        + (29).to_bytes(3, "little")
    )
    wide = header + chunk_of + name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(wide) + 4) + b"WEBP" + wide


AROUND = {
    "exif cut short": with_segment(0xE1, cut_exif()),
    "exif of noise": with_segment(0xE1, b"Exif\0\0" + bytes(range(256))),
    "exif of nothing": with_segment(0xE1, b"Exif\0\0"),
    "exif with endless directories": with_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 200),
    "pictures' index of noise": mpo(b"II*\0\x08\0\0\0" + b"\xff" * 100),
    "pictures' index of nothing": mpo(b""),
    "pictures' index without number": mpo(b"MM\0*\0\0\0\x08\0\0"),
    "pictures that are not there": mpo(
        b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHII", 0xB001, 4, 1, 2)
        + struct.pack("<HHII", 0xB002, 7, 32, 50) + bytes(4) + bytes(range(32))
    ),
    "colour profile of noise": with_segment(0xE2, b"ICC_PROFILE\0\x01\x05" + b"\xff" * 60),
    "photoshop block of noise": with_segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 60),
    "png with a broken exif": png(8, GREY, b"\x01\x02", chunk(b"eXIf", b"noise", wrong=1)),
    "png with a broken text": png(8, GREY, b"\x01\x02", chunk(b"zTXt", b"a\0\0noise"), chunk(b"iTXt", b"", wrong=5)),
    "png with a broken profile": png(8, GREY, b"\x01\x02", chunk(b"iCCP", b"x\0\0noise")),
    "png with a broken animation": png(8, GREY, b"\x01\x02", chunk(b"acTL", b"\0")),
    "png with a broken resolution": png(8, GREY, b"\x01\x02", chunk(b"pHYs", b"\0\1")),
    "webp with a broken exif": webp_with(b"EXIF", 0x08, b"Exif\0\0II*\0" + b"\xff" * 40),
    "webp with a broken profile": webp_with(b"ICCP", 0x20, b"\xff" * 11),
}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_damage_around_the_pixels_costs_no_picture(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = decode(AROUND[name])
    if AROUND[name].startswith(b"\x89PNG"):
        assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(1,) * 3, (2,) * 3]
    else:
        whole = decode(encoded(1, "WEBP" if AROUND[name].startswith(b"RIFF") else "JPEG"))
        assert np.array_equal(np.asarray(shown), np.asarray(whole))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_without_its_descriptions_is_the_same(format: str) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a title"
    picture(4).save(out, format, exif=exif)
    plain = without_metadata(out.getvalue())
    assert plain is not None and len(plain) < len(out.getvalue()) and b"a title" not in plain
    assert np.array_equal(np.asarray(decode(plain)), np.asarray(decode(out.getvalue())))
    assert without_metadata(b"GIF89a") is None


def test_damaged_pixels_are_still_refused() -> None:
    whole = with_segment(0xE1, cut_exif())
    with pytest.raises(BadSampleError) as caught:
        decode(whole[: len(whole) * 2 // 3])
    assert caught.value.kind == bad.TRUNCATED_IMAGE

"""Pictures without what is only said about them: the blocks that Pillow may stumble over though no pixel needs them.

Cameras, editors and downloads leave damaged EXIF, XMP, colour and multi-picture blocks behind. Viewers pass over
them; a decoder that reads them first refuses a picture whose pixels are whole.
"""

from __future__ import annotations

_JPEG_KEPT = (0xE0, 0xEE)
"""JFIF, and Adobe's block that says how the colours are stored."""
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_WEBP_DROPPED = (b"EXIF", b"XMP ", b"ICCP")
_WEBP_FLAGS = 0x20 | 0x08 | 0x04
"""The bits of VP8X that announce these blocks."""


def without_metadata(data: bytes) -> bytes | None:
    """The same picture without its descriptive blocks; None when it has none or is of another format."""
    if data.startswith(b"\xff\xd8"):
        pieces = _jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        pieces = _png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        pieces = _webp(data)
    else:
        return None
    plain = b"".join(pieces)
    return plain if len(plain) != len(data) else None


def _jpeg(data: bytes) -> list[bytes]:
    pieces, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        descriptive = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not descriptive or marker in _JPEG_KEPT:
            pieces.append(data[place:end])
        place = end
    return [*pieces, data[place:]]


def _png(data: bytes) -> list[bytes]:
    pieces, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in _PNG_KEPT:
            pieces.append(data[place:end])
        if data[place + 4 : place + 8] == b"IEND":
            return pieces
        place = end
    return [*pieces, data[place:]]


def _webp(data: bytes) -> list[bytes]:
    pieces, place = [], 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        if name == b"VP8X" and size >= 1:
            flags = bytes([data[place + 8] & ~_WEBP_FLAGS])
            pieces.append(data[place : place + 8] + flags + data[place + 9 : end])
        elif name not in _WEBP_DROPPED:
            pieces.append(data[place:end])
        place = end
    body = b"".join(pieces)
    return [b"RIFF", (len(body) + 4).to_bytes(4, "little"), b"WEBP", body]

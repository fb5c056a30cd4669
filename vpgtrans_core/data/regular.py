"""The gate for files: only regular ones are read, and their size is looked at before they are.

A pipe, a socket or a device under a picture's name would be waited for without end, and a sparse file says that it
holds more than any memory does.
"""

from __future__ import annotations

import codecs
import gzip
import io
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from vpgtrans_core import files
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.errors import DataError

MAX_BYTES = 64 << 20
"""Largest encoded image, in bytes."""
MAX_LISTING_BYTES = 4 << 30
"""Largest annotation file, in bytes, also after it was unpacked."""
FREE_UNPACKED_BYTES = 64 << 20
"""Up to here a packed file may grow as it likes; beyond it at most `MAX_UNPACKING` times its own size."""
MAX_UNPACKING = 200
GZIP = b"\x1f\x8b"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PACKED = {GZIP: "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
"""How compressed files begin."""


def open_regular(path: Path) -> tuple[BinaryIO, int]:
    """Open a regular file without ever waiting for it; also return its bytes.

    Raises:
        OSError: it cannot be opened. BadSampleError: it is not a regular file.
    """
    try:
        return files.open_regular(path)
    except files.NotRegularError as error:
        raise BadSampleError(bad.UNREADABLE_FILE, str(error)) from error


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file that holds at most `most` of them.

    Raises:
        OSError: it cannot be read. BadSampleError: it is not a regular file, or it is larger.
    """
    file, size = open_regular(path)
    with file:
        if size > most:
            raise BadSampleError(bad.TOO_MANY_BYTES, f"{size} bytes, at most {most}")
        return file.read(most + 1)[:most]


def read_text(path: Path) -> str:
    """The text of an annotation file, unpacked when its name ends in ``.gz``.

    Raises:
        DataError: it cannot be read, is not a regular file, or is too large. UnicodeDecodeError: see `decoded`.
    """
    return decoded(_read(path, None))


def packing(head: bytes) -> str | None:
    """How a file is compressed, from its first bytes; None when it is not."""
    return next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None)


def read_head(path: Path, most: int = 1 << 16) -> str:
    """The beginning of such a file, to see what it is.

    Raises:
        DataError: as in `read_text`.
    """
    return decoded(_read(path, most), errors="replace")


def decoded(data: bytes, errors: str = "strict") -> str:
    """A file's text: UTF-8, or UTF-16 where a mark at its beginning says so (spreadsheets write that).

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig", errors)


def _read(path: Path, most: int | None) -> bytes:
    try:
        file, size = open_regular(path)
        with file:
            _refuse_large(path, size)
            head = file.read(4096)
            file.seek(0)
            if head.startswith(GZIP) or path.suffix == ".gz":
                return _unpacked(path, file, size, most)
            if kind := packing(head):
                raise DataError(f"{path} is compressed ({kind})", "unpack it first; only .gz is unpacked on reading")
            if b"\0" in head and not head.startswith(UTF16):
                raise DataError(
                    f"{path} contains zero bytes, so it is not text", "check that the file is complete and in UTF-8"
                )
            return file.read(-1 if most is None else most)
    except BadSampleError as error:
        raise DataError(f"{path} is {error.detail}", "give a file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot read {path}: {error}", "check the path and its permissions, and that the file is complete"
        ) from error


def refuse_special(path: Path) -> None:
    """Refuse what is neither a regular file nor a folder.

    Raises:
        DataError: the path is a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path} is not a regular file but {files.kind_of(mode)}", "save the data to a file first")


def _refuse_large(path: Path, size: int) -> None:
    if size > MAX_LISTING_BYTES:
        raise DataError(
            f"{path} has {size} bytes; annotation files may have at most {MAX_LISTING_BYTES}",
            "split it into several files and give each with --data, or convert it to tar shards",
        )


def _unpacked(path: Path, file: BinaryIO, size: int, head: int | None) -> bytes:
    """Unpack a file piece by piece, so that a small one that grows beyond measure is refused before it is held."""
    most = min(MAX_LISTING_BYTES, max(FREE_UNPACKED_BYTES, MAX_UNPACKING * size))
    parts = io.BytesIO()
    with gzip.GzipFile(fileobj=file) as packed:
        if head is not None:
            return packed.read(head)
        while piece := packed.read(1 << 20):
            parts.write(piece)
            if parts.tell() > most:
                raise DataError(
                    f"{path} unpacks to more than {most} bytes, far more than its own {size}",
                    "if you trust the file, unpack it first",
                )
    return parts.getvalue()

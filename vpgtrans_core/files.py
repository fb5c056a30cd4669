"""Small files: json of bounded size, writes that survive a power cut, hashes. Loads no torch."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError

JSON_LIMIT = 64 << 20
"""Largest json file that is read, in bytes."""
REPLACED = ".replaced-"
"""What the name of a file or folder begins with while another takes its place."""
_HERE, _SWAP = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE."""


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object of bounded size.

    Raises:
        ModelError: missing, too large, or no json object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ModelError(f"{path} is larger than {JSON_LIMIT} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no json object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a json object, fsynced, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(values, stream, indent=2, sort_keys=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write and fsync one file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def put_in_place(new: Path, final: Path) -> None:
    """Give the file or folder `new` the name `final`; what had that name before is removed afterwards.

    On Linux the two change names in one step, so that a kill at any moment leaves a whole one called `final`. Where the
    system cannot do that, the old one is called ``.replaced-NAME`` until the new one is in place.
    """
    if not final.exists():
        new.rename(final)
        fsync(final.parent)
        return
    old = new
    if not _exchange(new, final):
        old = final.with_name(f"{REPLACED}{final.name}")
        remove(old)
        final.rename(old)
        new.rename(final)
    fsync(final.parent)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change names in one step; False where the system or its file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP) == 0)

"""Small files: json of bounded size, writes that survive a power cut, hashes, names that model folders share.

Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError

CONFIG = "config.json"
"""A model folder's config, as transformers writes it."""
REFERENCES = "references.json"
"""Beside a VPG saved without its LLM (``--save vpg``): where the LLM, and the ViT, are."""
LLM_PREFIX = "language_model."
"""What the names of the LLM's tensors begin with in a VL-LLM's folder."""
JSON_LIMIT = 64 << 20
"""Largest json file that is read, in bytes."""
DEPTH_LIMIT, VALUES_LIMIT = 16, 100_000
"""How deep a settings or card file may be nested, and how many values it may hold."""


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


def check_plain(values: Any) -> None:
    """Refuse values of a settings or card file that are nested too deep or, by aliases, far larger than the file.

    Raises:
        ValueError: saying which of the two.
    """
    level, count = [values], 0
    for _ in range(DEPTH_LIMIT):
        inner = [v for value in level for v in _inside(value)]
        count += len(inner)
        if count > VALUES_LIMIT:
            raise ValueError(f"it holds more than {VALUES_LIMIT} values, counting every use of an alias")
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {DEPTH_LIMIT} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set)) else []

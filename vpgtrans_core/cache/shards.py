"""Shards: entries that were written together, and the manifest that makes them valid.

NAME.safetensors   "names" [n, 16] uint8 and "values" [n, ...]; of pictures in tiles "values" [T, ...], "counts" [n] and
                   "sizes" [n, 2] (see `Tiles`)
NAME.json          its size and SHA-256; written last, so that a shard half written never counts
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vpgtrans_core.data.tiles import Tiles, Visual
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.weights import open_safetensors, read_json, save_tensors, sha256_file, write_json

NAME_BYTES = 16
STALE_SECONDS = 3600.0
"""Age from which a shard without manifest or a temporary file is what a kill left, not what is being written."""


@dataclass
class Shard:
    """An open shard, memory-mapped: `values` of n entries are read from disk where they are touched."""

    name: str
    names: list[bytes]
    values: Visual


def write_shard(folder: Path, names: Sequence[bytes], values: Visual) -> str:
    """Write entries as a new shard that is there whole or not at all; return its name. Names sort by time.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing else is touched.
    """
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    file = folder / f"{name}.safetensors"
    table = torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8).view(-1, NAME_BYTES)
    save_tensors(file, {"names": table, **_tensors(values)})
    record = {"sha256": sha256_file(file), "bytes": file.stat().st_size, "entries": len(names)}
    write_json(folder / f"{name}.json", record)
    return name


def _tensors(values: Visual) -> dict[str, Tensor]:
    if not isinstance(values, Tiles):
        return {"values": values}
    return {"values": values.values, "counts": torch.tensor(values.counts), "sizes": torch.tensor(values.sizes)}


def shard_names(folder: Path) -> list[str]:
    """The shards that have a manifest, oldest first."""
    return sorted(path.stem for path in folder.glob("[0-9]*.json"))


def damage(folder: Path, name: str) -> str | None:
    """Say what is wrong with a shard, or None when its bytes are those that its manifest says."""
    try:
        record = read_json(folder / f"{name}.json")
        if sha256_file(folder / f"{name}.safetensors") != record.get("sha256"):
            return "its bytes are not those that were written"
    except (VpgtError, OSError) as error:
        return f"it cannot be read: {error}"
    return None


def open_shard(folder: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype, tiled: bool) -> Shard | None:
    """Map a shard; None when it does not hold entries, or tiles of entries, of this shape and precision."""
    values: Visual
    try:
        handle = open_safetensors(folder / f"{name}.safetensors")
        table, rows = handle.get_tensor("names"), handle.get_tensor("values")
        values = rows
        if tiled:
            sizes = [(width, height) for width, height in handle.get_tensor("sizes").tolist()]
            values = Tiles(rows, tuple(handle.get_tensor("counts").tolist()), tuple(sizes))
    except Exception:  # a shard that another process is removing, or that holds something else
        return None
    if table.shape != (len(values), NAME_BYTES) or rows.shape[1:] != shape or rows.dtype != dtype:
        return None
    raw = table.numpy().tobytes()
    return Shard(name, [raw[i : i + NAME_BYTES] for i in range(0, len(raw), NAME_BYTES)], values)


def remove_shard(folder: Path, name: str) -> None:
    """Remove a shard, its manifest first, so that what a kill leaves is not valid."""
    for suffix in (".json", ".safetensors"):
        with contextlib.suppress(OSError):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what kills left: old temporary files and old shards without a manifest."""
    for path in folder.iterdir():
        left = path.name.endswith(".tmp") or (path.suffix == ".safetensors" and not path.with_suffix(".json").exists())
        with contextlib.suppress(OSError):
            if left and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def folder_time(folder: Path) -> int:
    """When files were last added to or removed from a folder, in ns; 0 when there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0

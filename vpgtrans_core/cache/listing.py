"""Lists and removes the caches below a root."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.cache.shards import damage, shard_names
from vpgtrans_core.cache.store import KEY, folder_bytes
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.weights import read_json


@dataclass(frozen=True)
class CacheFolder:
    """A cache on disk: its key's values, entries, bytes, when it was last written, and damaged shards (None: not
    looked for)."""

    folder: Path
    key: dict[str, Any]
    entries: int
    bytes: int
    written: float
    damaged: int | None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "folder": str(self.folder)}

    @property
    def days(self) -> float:
        """Days since it was last written."""
        return (time.time() - self.written) / 86400


def cache_folders(root: Path, *, check: bool = False) -> list[CacheFolder]:
    """The caches below `root`; `check` reads all of them and compares SHA-256. Other folders are skipped."""
    if not root.is_dir():
        return []
    found = (_look(folder, check) for folder in sorted(root.iterdir()) if folder.is_dir())
    return [cache for cache in found if cache is not None]


def remove(cache: CacheFolder) -> None:
    """Remove a cache, its key first, so that a kill leaves nothing that looks like a cache."""
    (cache.folder / KEY).unlink(missing_ok=True)
    shutil.rmtree(cache.folder)


def _look(folder: Path, check: bool) -> CacheFolder | None:
    try:
        key = read_json(folder / KEY)
    except VpgtError:
        return None
    if "kind" not in key or "vpg" not in key:
        return None
    names, entries = shard_names(folder), 0
    for name in names:
        try:
            entries += int(read_json(folder / f"{name}.json").get("entries", 0))
        except (VpgtError, ValueError):
            continue
    damaged = sum(damage(folder, name) is not None for name in names) if check else None
    return CacheFolder(folder, key, entries, folder_bytes(folder), folder.stat().st_mtime, damaged)

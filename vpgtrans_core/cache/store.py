"""One cache: entries by name in shards on disk, and those not yet written in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vpgtrans_core.cache.key import CacheKey
from vpgtrans_core.cache.shards import (
    Shard,
    damage,
    folder_time,
    open_shard,
    remove_shard,
    shard_names,
    sweep,
    write_shard,
)
from vpgtrans_core.data.tiles import Tiles, Visual, stacked
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.weights import read_json, write_json

log = logging.getLogger(__name__)

KEY = "key.json"
SHARD_BYTES = 64 << 20
"""Pending entries are written when they reach this many bytes."""


class FeatureCache:
    """Entries of one `CacheKey`; see `open`.

    The first value of a name wins: whoever computes an entry again uses the kept one, so that a run sees the same
    bits whether an image came from the cache or not. Picklable: a copy in another process reads what is on disk,
    notices new shards, and writes nothing that is pending here.

    Attributes:
        damaged: names of the shards that were found damaged and removed.
        writes: False after the disk refused a shard; the cache then only reads.
        failure: why the disk refused it.
    """

    def __init__(self, folder: Path, key: CacheKey) -> None:
        self.folder = folder
        self.key = key
        self.damaged: list[str] = []
        self.writes = True
        self.failure: OSError | None = None
        self._shards: dict[str, Shard] = {}
        self._where: dict[bytes, tuple[str, int]] = {}
        self._seen: set[str] = set()
        self._looked = -1
        self._pending: dict[bytes, Visual] = {}

    @classmethod
    def open(cls, root: Path, key: CacheKey) -> FeatureCache:
        """Open or create the cache of `key` below `root`. Every shard is checked against its SHA-256; a damaged one is
        removed, so that its entries are absent and computed again.

        Raises:
            OSError: the folder cannot be made.
        """
        cache = cls(root / key.folder, key)
        cache.folder.mkdir(parents=True, exist_ok=True)
        if not _belongs(cache.folder, key):
            for name in shard_names(cache.folder):
                remove_shard(cache.folder, name)
            write_json(cache.folder / KEY, key.as_dict())
        sweep(cache.folder)
        for name in shard_names(cache.folder):
            if (cause := damage(cache.folder, name)) is not None:
                log.warning("cache shard %s is damaged (%s); its images will be computed again", name, cause)
                cache.damaged.append(name)
                remove_shard(cache.folder, name)
        cache._refresh()
        return cache

    def __len__(self) -> int:
        return len(self._where.keys() | self._pending.keys())

    def __contains__(self, name: bytes) -> bool:
        return name in self._pending or name in self._where

    def get(self, name: bytes) -> Visual | None:
        """The entry of this name ``[*key.shape]``, or the tiles of it, a copy; None when it is not there."""
        if (pending := self._pending.get(name)) is not None:
            return pending.clone()
        if name not in self._where:
            self._refresh()
        if (place := self._where.get(name)) is None:
            return None
        return self._shards[place[0]].values[place[1]].clone()

    def add(self, names: Sequence[bytes], values: Visual) -> Visual:
        """Keep ``values`` ``[n, *key.shape]``, or the tiles of n entries, under these names and return what is kept
        now, on the values' device: the earlier value where a name was there before. Values that are not finite are not
        kept."""
        if isinstance(values, Tiles):
            return self._add_tiles(names, values)
        if known := [i for i, name in enumerate(names) if name in self]:
            values = values.clone()
            for i in known:
                kept = self.get(names[i])
                assert isinstance(kept, torch.Tensor)
                values[i] = kept.to(values.device)
        new = [i for i, name in enumerate(names) if name not in self]
        if self.writes and new:
            rows = values.detach()[new].to("cpu", self.key.entry_dtype)
            finite = rows.flatten(1).isfinite().all(1).tolist()
            self._pending |= {names[i]: row.clone() for i, row, sound in zip(new, rows, finite, strict=True) if sound}
            self._flush_if_full()
        return values

    def _add_tiles(self, names: Sequence[bytes], values: Tiles) -> Visual:
        kept: list[Visual] = []
        for name, entry in zip(names, values, strict=True):
            known = self.get(name)
            if known is None and self.writes and entry.values.isfinite().all():
                self._pending[name] = entry.change(lambda v: v.detach().to("cpu", self.key.entry_dtype, copy=True))
            kept.append(entry if known is None else known.to(values.values.device))
        self._flush_if_full()
        return stacked(kept)

    def _flush_if_full(self) -> None:
        if len(self._pending) * self.key.entry_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the pending entries as a shard. When the disk is full, warn once and only read from then on."""
        if not self._pending:
            return
        try:
            write_shard(self.folder, list(self._pending), stacked(list(self._pending.values())))
        except OSError as error:
            log.warning("the cache %s cannot be written (%s); the run continues without it", self.folder, error)
            self.writes = False
            self.failure = error
        else:
            self._looked = -1  # the clock of the file system may not have moved since the last look
            self._refresh()
        self._pending = {}

    def info(self) -> dict[str, Any]:
        """Folder, key, entries, bytes on disk and damaged shards."""
        return {
            "folder": str(self.folder),
            "kind": self.key.kind,
            "entries": len(self),
            "bytes": folder_bytes(self.folder),
            "damaged_shards": len(self.damaged),
        }

    def _refresh(self) -> None:
        """Add the shards that any process has written since the last look."""
        if (now := folder_time(self.folder)) == self._looked:
            return
        self._looked, key = now, self.key
        for name in shard_names(self.folder):
            if name in self._seen:
                continue
            self._seen.add(name)
            if (shard := open_shard(self.folder, name, key.shape, key.entry_dtype, key.tiles > 0)) is not None:
                self._shards[name] = shard
                for row, entry in enumerate(shard.names):
                    self._where.setdefault(entry, (name, row))
                shard.names = []

    def __getstate__(self) -> dict[str, Any]:
        """Without maps and pending entries: they belong to this process."""
        fresh = FeatureCache(self.folder, self.key)
        fresh.writes = False
        return fresh.__dict__


def _belongs(folder: Path, key: CacheKey) -> bool:
    try:
        return read_json(folder / KEY) == key.as_dict()
    except VpgtError:
        return False


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a cache's folder."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except OSError:  # another process has just renamed or removed it
            continue
    return total

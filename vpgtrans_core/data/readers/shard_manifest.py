"""A manifest of tar shards: what each must hold, so that a damaged or missing shard is seen.

Damage inside a member's bytes shows in no header; only the SHA-256 of the manifest sees it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpgtrans_core.data.readers.json_rows import read_json
from vpgtrans_core.data.readers.tar_index import index_shard
from vpgtrans_core.errors import DataError
from vpgtrans_core.files import sha256_file

NAME = "vpgt-shards.json"
"""The manifest's file name, beside the shards."""


@dataclass(frozen=True)
class ShardFacts:
    """What one shard holds when it is whole."""

    samples: int
    bytes: int
    sha256: str


def write_manifest(shards: Sequence[Path]) -> Path:
    """Write the manifest of whole shards of one folder beside them.

    Raises:
        DataError: there are no shards, they lie in several folders, or one is damaged already.
    """
    folders = {shard.parent for shard in shards}
    if len(folders) != 1:
        raise DataError(f"{len(shards)} shards in {len(folders)} folders", "make one manifest a folder of shards")
    facts = {}
    for shard in shards:
        index = index_shard(shard)
        if index.damage:
            raise DataError(f"{shard}: {index.damage}", "fetch the shard again before making the manifest")
        facts[shard.name] = {
            "samples": len(index.samples),
            "bytes": shard.stat().st_size,
            "sha256": sha256_file(shard),
        }
    path = folders.pop() / NAME
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps({"vpgt_shards": 1, "shards": facts}, indent=1), encoding="utf-8")
    os.replace(new, path)
    return path


def read_manifest(folder: Path) -> dict[str, ShardFacts]:
    """The manifest of a folder's shards by file name; empty when there is none.

    Raises:
        DataError: there is one, but it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    data = read_json(path)
    try:
        return {
            str(name): ShardFacts(int(f["samples"]), int(f["bytes"]), str(f["sha256"]))
            for name, f in data["shards"].items()
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no manifest of shards: {error}", "delete it, or make it anew") from error


def damage(shard: Path, samples: int, facts: ShardFacts, hashes: bool) -> str:
    """What differs between a shard and its manifest, or an empty text; its SHA-256 only with `hashes`."""
    size = shard.stat().st_size if shard.is_file() else 0
    if size != facts.bytes:
        return f"{size} bytes, {facts.bytes} in the manifest"
    if samples != facts.samples:
        return f"{samples} samples, {facts.samples} in the manifest"
    if hashes and sha256_file(shard) != facts.sha256:
        return "its SHA-256 is not that of the manifest"
    return ""

"""A manifest of tar shards: what each must hold, so that a damaged or missing shard is seen.

Damage inside a member's bytes shows in no header; only the SHA-256 of the manifest sees it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.data.readers.json_rows import read_json
from vpgtrans_core.data.readers.tar_index import index_shard
from vpgtrans_core.errors import DataError
from vpgtrans_core.files import sha256_file

NAME = "vpgt-shards.json"
"""The manifest's file name, beside the shards."""
BLOCK = 512
"""Bytes of a tar header: a sample has at least one."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        raise DataError(f"the {len(shards)} shards lie in {len(folders)} folders", "write one manifest for each folder")
    facts = {}
    for shard in shards:
        index = index_shard(shard)
        if index.damage:
            raise DataError(f"{shard}: {index.damage}", "download the shard again before writing the manifest")
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
    shards = data.get("shards") if isinstance(data, dict) else None
    if not isinstance(shards, dict) or not all(map(_is_fact, shards, shards.values())):
        raise DataError(f"{path} is not a manifest of shards", "delete it, or write it again with `vpgt data manifest`")
    return {name: ShardFacts(f["samples"], f["bytes"], f["sha256"]) for name, f in shards.items()}


def _is_fact(name: str, facts: Any) -> bool:
    """Whether a manifest's entry names a file beside it and says what a tar file can hold."""
    if name in ("", "..") or Path(name).name != name or not name.isprintable() or not isinstance(facts, dict):
        return False
    if not all(_is_count(facts.get(key)) for key in ("samples", "bytes")):
        return False
    sha256 = facts.get("sha256")
    fits = facts["samples"] * BLOCK <= facts["bytes"]
    return fits and isinstance(sha256, str) and bool(_SHA256.fullmatch(sha256))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class ShardReport:
    """What a look at one shard shows.

    Attributes:
        samples: those that can be read.
        expected: those that its manifest says, None without one.
        damage: what is wrong with it; empty for a whole shard.
    """

    path: Path
    samples: int
    expected: int | None
    damage: str

    @property
    def missing(self) -> str:
        """What is missing of a damaged shard, in words."""
        if self.expected is None:
            return f"{self.samples} samples can be read; without a {NAME} nobody knows how many there were"
        return f"{self.samples} of {self.expected} samples can be read"


def check_shards(shards: Sequence[Path]) -> list[ShardReport]:
    """Read whole shards and compare them with their folders' manifests, SHA-256 too; those not there are reported.

    Raises:
        DataError: a manifest is damaged.
    """
    manifests = {folder: read_manifest(folder) for folder in {shard.parent for shard in shards}}
    reports = [_check_shard(shard, manifests[shard.parent]) for shard in shards]
    there = set(shards)
    gone = [(folder / name, facts) for folder, named in manifests.items() for name, facts in named.items()]
    return reports + [ShardReport(p, 0, f.samples, "it is not there") for p, f in gone if p not in there]


def _check_shard(shard: Path, manifest: dict[str, ShardFacts]) -> ShardReport:
    index, facts = index_shard(shard), manifest.get(shard.name)
    wrong = index.damage or (damage(shard, len(index.samples), facts, hashes=True) if facts else "")
    if manifest and facts is None and not wrong:
        wrong = f"{NAME} does not name it; if it was added since, write the manifest again"
    return ShardReport(shard, len(index.samples), facts.samples if facts else None, wrong)


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

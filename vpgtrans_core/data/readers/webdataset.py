"""Webdataset's tar shards: members ``KEY.jpg`` (``jpeg``, ``png``, ``webp``) and ``KEY.txt`` or ``KEY.json``.

Each shard is indexed once by its headers; images are then read by their offset, in any order, so that shards are
shuffled as thoroughly as files are.
"""

from __future__ import annotations

import os
import statistics
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers import shard_manifest
from vpgtrans_core.data.readers.json_rows import nothing_usable
from vpgtrans_core.data.readers.shard_paths import shards
from vpgtrans_core.data.readers.tar_index import ShardIndex, index_shard
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.errors import DataError

PARALLEL_FROM = 16
"""Number of shards from which they are indexed by several processes."""


@dataclass(frozen=True)
class TarImage:
    """An image in a tar file, by the place of its bytes."""

    shard: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{Path(self.shard).name} at byte {self.offset}"

    def read(self) -> bytes:
        with open(self.shard, "rb", buffering=0) as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise BadSampleError(bad.UNREADABLE_FILE, "the shard has become shorter")
        return data


@dataclass(frozen=True)
class TarImages:
    """Images in tar files: three numbers an image."""

    shards: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def __getitem__(self, row: int) -> ImageRef:
        return TarImage(self.shards[self.shard[row]], int(self.offset[row]), int(self.size[row]))


def read(path: str, clean: Callable[[str], str], hashes: bool = False) -> Listing:
    """Make the listing of all shards that `path` names (a tar file, a folder of them, or a pattern).

    A damaged shard counts as so many bad samples as it lost: by its manifest, else by the size of the other shards.

    Args:
        hashes: also compare each shard's SHA-256 with its manifest, if there is one.

    Raises:
        DataError: there are no shards, or they hold no usable sample.
    """
    files = shards(path)
    if not files:
        raise DataError(f"{path} holds no .tar shards", "give a folder with .tar files, or a pattern of them")
    manifests = {folder: shard_manifest.read_manifest(folder) for folder in {file.parent for file in files}}
    missing = _missing(files, manifests) if Path(path).is_dir() else []
    indexes = _index_all(files)
    for file, index in zip(files, indexes, strict=True):
        facts = manifests[file.parent].get(file.name)
        if facts is not None and not index.damage:
            index.damage = shard_manifest.damage(file, len(index.samples), facts, hashes)
    return _listing(path, files, indexes, manifests, missing, clean)


def _missing(files: Sequence[Path], manifests: dict[Path, dict[str, shard_manifest.ShardFacts]]) -> list[Path]:
    """Shards that a manifest names and that are not there."""
    there = set(files)
    return [folder / name for folder, facts in manifests.items() for name in facts if folder / name not in there]


def _index_all(files: Sequence[Path]) -> list[ShardIndex]:
    cores = os.cpu_count() or 1
    if len(files) < PARALLEL_FROM or cores == 1:
        return [index_shard(file) for file in files]
    with ProcessPoolExecutor(min(cores, 16)) as pool:
        return list(pool.map(index_shard, files, chunksize=4))


def _listing(
    path: str,
    files: Sequence[Path],
    indexes: Sequence[ShardIndex],
    manifests: dict[Path, dict[str, shard_manifest.ShardFacts]],
    missing: Iterable[Path],
    clean: Callable[[str], str],
) -> Listing:
    builder = ListingBuilder(path, "webdataset", clean)
    typical = int(statistics.median([len(i.samples) for i in indexes if not i.damage] or [1]))
    above = Path(os.path.commonpath([file.parent for file in files]))
    shard, offset, size = array("i"), array("q"), array("q")
    for number, (file, index) in enumerate(zip(files, indexes, strict=True)):
        name = file.relative_to(above).as_posix()
        if index.damage:
            facts = manifests[file.parent].get(file.name)
            lost = (facts.samples if facts else typical) - len(index.samples)
            builder.skip(name, bad.DAMAGED_SHARD, index.damage, count=max(1, lost))
        for member in index.duplicates:
            builder.skip(f"{name}/{member}", bad.DUPLICATE_KEY)
        for sample in index.samples:
            key = f"{name}/{sample.key}"
            if sample.problem:
                builder.skip(key, *sample.problem)
            elif sample.offset < 0:
                builder.skip(key, bad.MISSING_IMAGE)
            elif sample.captions is None:
                builder.skip(key, bad.MISSING_TEXT)
            elif builder.add(key, sample.captions):
                shard.append(number)
                offset.append(sample.offset)
                size.append(sample.size)
    for file in missing:
        builder.skip(file.name, bad.DAMAGED_SHARD, "not there", count=manifests[file.parent][file.name].samples)
    if not len(shard):
        raise nothing_usable(builder, path)
    images = TarImages(
        tuple(map(str, files)), *(np.array(a, dtype=t) for a, t in ((shard, "i4"), (offset, "i8"), (size, "i8")))
    )
    return builder.build(images, files)

"""Webdataset's tar shards: members ``KEY.jpg`` (``jpeg``, ``png``, ``webp``) and ``KEY.txt`` or ``KEY.json``. A key
ends at the first dot of the base name, the rest is the field's name: `tar_index.samples_of` says what is used.

Each shard is indexed once by its headers; images are then read by their offset, in any order, so that shards are
shuffled as thoroughly as files are.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import statistics
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.captions import keep
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers import shard_manifest
from vpgtrans_core.data.readers.fields import CAPTIONS, Reading
from vpgtrans_core.data.readers.json_rows import nothing_usable
from vpgtrans_core.data.readers.shard_paths import shards
from vpgtrans_core.data.readers.tar_index import IMAGES, ShardIndex, ShardSample, index_shard
from vpgtrans_core.data.regular import open_regular
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.errors import DataError

log = logging.getLogger(__name__)

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
        file, _ = open_regular(Path(self.shard))
        with file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise BadSampleError(bad.UNREADABLE_FILE, "the shard is shorter than before")
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


def read(path: str, reading: Reading) -> Listing:
    """Make the listing of all shards that `path` names (a tar file, a folder of them, or a pattern).

    A damaged shard counts as so many bad samples as it lost: by its manifest, else by the size of the other shards. It
    is also told at once, because of a shard that stands alone nobody knows how much it lost.

    Raises:
        DataError: there are no shards, or they hold no usable sample.
    """
    files = shards(path)
    if not files:
        raise DataError(
            f"{path} contains no .tar shards", "give a folder with .tar files, or a pattern that matches them"
        )
    manifests = {folder: shard_manifest.read_manifest(folder) for folder in {file.parent for file in files}}
    missing = _missing(files, manifests) if Path(path).is_dir() else []
    indexes = _index_all(files, reading)
    for file, index in zip(files, indexes, strict=True):
        facts = manifests[file.parent].get(file.name)
        if facts is not None and not index.damage:
            index.damage = shard_manifest.damage(file, len(index.samples), facts, reading.hashes)
        if index.damage:
            rest = "" if facts else "; without a manifest the number of lost samples is unknown"
            log.warning("%s is damaged: %s%s; %s", file, index.damage, rest, index.remedy)
    return _listing(path, files, indexes, manifests, missing, reading)


def _missing(files: Sequence[Path], manifests: dict[Path, dict[str, shard_manifest.ShardFacts]]) -> list[Path]:
    """Shards that a manifest names and that are not there."""
    there = set(files)
    return [folder / name for folder, facts in manifests.items() for name in facts if folder / name not in there]


def _index_all(files: Sequence[Path], reading: Reading) -> list[ShardIndex]:
    cores = os.cpu_count() or 1
    index = functools.partial(index_shard, reading=dataclasses.replace(reading, clean=keep))  # what can be pickled
    if len(files) < PARALLEL_FROM or cores == 1:
        return [index(file) for file in files]
    with ProcessPoolExecutor(min(cores, 16)) as pool:
        return list(pool.map(index, files, chunksize=4))


def _listing(
    path: str,
    files: Sequence[Path],
    indexes: Sequence[ShardIndex],
    manifests: dict[Path, dict[str, shard_manifest.ShardFacts]],
    missing: Iterable[Path],
    reading: Reading,
) -> Listing:
    fields = ", ".join(reading.captions(*CAPTIONS))
    wanted = (
        f"the image is read from the fields {', '.join(IMAGES)}, the caption from txt, or from a json's {fields}; name "
        "another key with --caption-key"
    )
    builder = ListingBuilder(path, "webdataset", reading.clean_caption, wanted, reading.pictures)
    typical = int(statistics.median([len(i.samples) for i in indexes if not i.damage] or [1]))
    above = Path(os.path.commonpath([file.parent for file in files]))
    places = _Places()
    for number, (file, index) in enumerate(zip(files, indexes, strict=True)):
        name = file.relative_to(above).as_posix()
        if index.damage:
            facts = manifests[file.parent].get(file.name)
            lost = (facts.samples if facts else typical) - len(index.samples)
            builder.skip(name, bad.DAMAGED_SHARD, index.damage, count=max(1, lost))
        for member in index.duplicates:
            builder.skip(f"{name}/{member}", bad.DUPLICATE_KEY)
        builder.met.update(index.met)
        for sample in index.samples:
            if _take(builder, f"{name}/{sample.key}", sample):
                places.append(number, sample.offset, sample.size)
    for file in missing:
        builder.skip(file.name, bad.DAMAGED_SHARD, "not there", count=manifests[file.parent][file.name].samples)
    if not len(places.shard):
        raise nothing_usable(builder, path)
    return builder.build(places.images(files), files)


def _take(builder: ListingBuilder, key: str, sample: ShardSample) -> bool:
    """Add a sample, or count what is wrong with it."""
    textless = sample.problem is not None and sample.problem[0] == bad.MISSING_TEXT and sample.offset >= 0
    if sample.problem and not (textless and builder.pictures):
        builder.skip(key, *sample.problem)
    elif sample.offset < 0:
        builder.skip(key, bad.MISSING_IMAGE)
    else:
        return builder.add(key, sample.captions or [])
    return False


class _Places:
    """Collects where images lie in shards."""

    def __init__(self) -> None:
        self.shard, self.offset, self.size = array("i"), array("q"), array("q")

    def append(self, shard: int, offset: int, size: int) -> None:
        self.shard.append(shard)
        self.offset.append(offset)
        self.size.append(size)

    def images(self, files: Sequence[Path]) -> TarImages:
        numbers = [np.array(a, dtype=t) for a, t in ((self.shard, "i4"), (self.offset, "i8"), (self.size, "i8"))]
        return TarImages(tuple(map(str, files)), *numbers)

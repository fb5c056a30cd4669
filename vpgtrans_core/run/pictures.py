"""Whether the picture files of a run are still those that it began with.

A listing knows pictures by their names (`Listing.fingerprint`). Sizes in bytes and times of change cost no reading, so
they are kept beside the checkpoints for every picture, and the hashes of some. A resumed run compares them, and so does
each run at its end. Times change when data is copied; where only they differ, the hashes decide.

Pictures in shards are not looked at one by one: the sizes of the shards are compared (`run.identity`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.listing import FileImage, Listing
from vpgtrans_core.data.places import existing
from vpgtrans_core.files import fsync, read_bounded, write_synced, writing
from vpgtrans_core.processes.heartbeat import WatchedAccelerator
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.run.folder import RunFolder

FILE = "pictures.safetensors"
MOST_BYTES = 1 << 32
HASHED = 256
"""Pictures of a source whose bytes are hashed."""
ENOUGH = 16
"""Hashes that must agree before files with other times count as a copy."""
ABSENT = -1
"""The size of a picture that is not there."""


@dataclass(frozen=True)
class Pictures:
    """The picture files of one source that a run uses.

    Attributes:
        path: the source.
        files: where they are; None after reading from disk.
        same: 32 bytes that stand for the samples and the rows that are used: others are not compared.
        sizes, times: of each picture its bytes and when it was changed, in ns, ``[n]``.
        hashes: 8 bytes of the hash of `HASHED` pictures, evenly spread, as numbers; 0 where one cannot be read.
    """

    path: str
    files: Sequence[FileImage] | None
    same: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    hashes: np.ndarray


@dataclass(frozen=True)
class Difference:
    """What differs between two looks at the pictures.

    Attributes:
        changes: pictures that are others for certain, in words.
        remarks: pictures that may be.
    """

    changes: list[str]
    remarks: list[str]


class PictureWatch:
    """Looks at the pictures of a run when it starts and when it ends. Only the main process looks."""

    def __init__(self, folder: RunFolder, data: Sequence[TrainingData], accelerator: WatchedAccelerator) -> None:
        self.folder = folder
        self.data = data
        self.accelerator = accelerator
        self.seen = look(data) if accelerator.is_main_process else []

    def replaced(self, say: Callable[[str], None]) -> list[str]:
        """What has changed since the run looked last, the same in every process, which all must ask; what may have
        changed is said."""
        before = kept(self.folder.checkpoints) if self.accelerator.is_main_process else None
        difference = compare(before, self.seen) if before is not None else Difference([], [])
        for remark in difference.remarks:
            say(remark)
        changes: list[str] = self.accelerator.gather_object([difference.changes])[0]
        return changes

    def keep(self) -> None:
        """Write down what was seen."""
        if self.folder.writes and any(len(one.sizes) for one in self.seen):
            keep(self.seen, self.folder.checkpoints)

    def meanwhile(self) -> list[str]:
        """What has changed since the run started, or may have."""
        difference = compare(self.seen, look(self.data)) if self.seen else Difference([], [])
        return difference.changes + difference.remarks


def look(data: Sequence[TrainingData]) -> list[Pictures]:
    """Look at the picture files of a run's data; each set of data counts once."""
    parts = {id(part): part for part in data}.values()
    every = [each for part in parts for each in (part.train, part.own_held_out) if each is not None]
    return [_source(each, number) for each in every for number in range(len(each.listings))]


def compare(before: Sequence[Pictures], now: Sequence[Pictures]) -> Difference:
    """Compare two looks, source by source."""
    changes, remarks = [], []
    for old, new in zip(before, now, strict=False):
        if not np.array_equal(old.same, new.same) or old.sizes.shape != new.sizes.shape:
            continue  # other samples, which are told as such
        there = (old.sizes != ABSENT) & (new.sizes != ABSENT)
        resized = np.flatnonzero(there & (old.sizes != new.sizes))
        touched = there & (old.sizes == new.sizes) & (old.times != new.times)
        asked = _spread(len(there))
        known = touched[asked] & (old.hashes != 0) & (new.hashes != 0)
        altered = asked[known & (old.hashes != new.hashes)]
        if len(resized):
            row = int(resized[0])
            sizes = f"had {old.sizes[row]} bytes, has {new.sizes[row]} now"
            changes.append(_told(new, len(resized), "were replaced", f"{_name(new, row)} {sizes}"))
        elif len(altered):
            changes.append(_told(new, len(altered), "hold other bytes", _name(new, int(altered[0]))))
        elif (unknown := int(touched.sum()) - int(known.sum())) and known.sum() < ENOUGH:
            row = int(np.flatnonzero(touched)[0])
            remarks.append(_told(new, unknown, "were written again with the same sizes", _name(new, row)))
    return Difference(changes, remarks)


def keep(pictures: Sequence[Pictures], checkpoints: Path) -> None:
    """Write down what was seen, beside the checkpoints of a run.

    Raises:
        DiskFull: there is no room for it.
    """
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(one, name))
        for number, one in enumerate(pictures)
        for name in ("same", "sizes", "times", "hashes")
    }
    content = save(tensors)
    checkpoints.mkdir(exist_ok=True)
    temporary = checkpoints / f".{FILE}"
    with writing("the list of pictures", checkpoints, len(content), run=checkpoints.parent):
        write_synced(temporary, content)
        temporary.rename(checkpoints / FILE)
        fsync(checkpoints)


def kept(checkpoints: Path) -> list[Pictures] | None:
    """What `keep` wrote; None where nothing was written, or something else lies there."""
    try:
        content = read_bounded(checkpoints / FILE, MOST_BYTES)
        tensors = load(content) if content is not None else {}
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    sources: list[Pictures] = []
    while f"{len(sources)}.same" in tensors:
        values = [tensors.get(f"{len(sources)}.{name}") for name in ("same", "sizes", "times", "hashes")]
        if not all(value is not None and value.ndim == 1 and value.dtype.kind in "iu" for value in values):
            return None
        same, sizes, times, hashes = values
        if sizes.shape != times.shape or hashes.shape != _spread(len(sizes)).shape:  # type: ignore[union-attr,arg-type]
            return None
        sources.append(Pictures("", None, same, sizes, times, hashes))  # type: ignore[arg-type]
    return sources or None


def _source(data: Data, number: int) -> Pictures:
    listing = data.listings[number]
    rows = np.sort(np.concatenate([data.train[number], data.held_out[number]]))
    files = _files(listing, rows)
    same = hashlib.sha256(listing.fingerprint().encode() + rows.astype(np.int64).tobytes()).digest()
    status = np.array([_status(file) for file in files], dtype=np.int64).reshape(-1, 2)
    hashes = np.array([_hash(files[i]) for i in _spread(len(files))], dtype=np.uint64)
    return Pictures(listing.path, files, np.frombuffer(same, np.uint8), status[:, 0], status[:, 1], hashes)


def _files(listing: Listing, rows: np.ndarray) -> list[FileImage]:
    """The pictures of these rows that are files of their own."""
    if not len(listing.images) or not isinstance(listing.images[0], FileImage):
        return []
    named: Iterable[int] = rows
    if (ends := listing.image_ends) is not None:
        named = (image for row in rows for image in range(int(ends[row - 1]) if row else 0, int(ends[row])))
    images = (listing.images[int(image)] for image in named)
    return [image for image in images if isinstance(image, FileImage)]


def _status(file: FileImage) -> tuple[int, int]:
    try:
        status = existing(file.root, file.name).stat()
    except (OSError, ValueError, BadSampleError):
        return ABSENT, 0
    return status.st_size, status.st_mtime_ns


def _hash(file: FileImage) -> int:
    try:
        return int.from_bytes(hashlib.blake2b(file.read(), digest_size=8).digest(), "big") or 1
    except (OSError, ValueError, BadSampleError):
        return 0


def _spread(count: int) -> np.ndarray:
    """The places of the hashed pictures among so many."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, HASHED)).astype(np.int64))


def _name(pictures: Pictures, row: int) -> str:
    return pictures.files[row].name if pictures.files else "one"


def _told(pictures: Pictures, count: int, what: str, example: str) -> str:
    return f"data: {count} of {len(pictures.sizes)} pictures of {pictures.path} {what}, for instance {example}"

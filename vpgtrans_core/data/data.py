"""The data of a run: its sources, what of them is trained on, what is held out. `open_data` is the way in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpgtrans_core.data.bad import BadLog, Bounds
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.order import InOrder, Order, split
from vpgtrans_core.data.pictures import Wanted, parted
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.data.sample import Sample
from vpgtrans_core.errors import DataError

MOST_HELD_OUT = 0.2
"""The largest share of the images that is held out, however many were asked for."""


@dataclass(frozen=True)
class Data:
    """Captioned images from one or several sources, split into training and held-out rows.

    Attributes:
        listings: the sources.
        ratios: sampling ratio of each source, or None: every image equally often.
        train: the rows of each source that are trained on, ``[n]`` each.
        held_out: the rows of each source that are not.
        bounds: how many bad samples are tolerated.
    """

    listings: tuple[Listing, ...]
    ratios: tuple[float, ...] | None
    train: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]
    bounds: Bounds

    def sample(self, source: int, row: int) -> Sample:
        """Row `row` of source `source`."""
        return self.listings[source][row]

    @property
    def images(self) -> int:
        """Training images: the length of one epoch."""
        return sum(len(rows) for rows in self.train)

    @property
    def held_out_images(self) -> int:
        return sum(len(rows) for rows in self.held_out)

    def captions_a_visit(self, captions_per_image: int | None = None) -> float:
        """Captions that an image brings on average, by the sampling ratios."""
        weights = self.ratios or tuple(float(len(rows)) for rows in self.train)
        means = []
        for listing, rows in zip(self.listings, self.train, strict=True):
            counts = listing.captions_of(rows)
            means.append(float(np.minimum(counts, captions_per_image or counts.max(initial=1)).mean()))
        return float(np.average(means, weights=weights))

    def images_per_step(self, captions: int, captions_per_image: int | None = None) -> int:
        """Images of a step that holds about `captions` captions, over all processes; at least one."""
        return max(1, round(captions / self.captions_a_visit(captions_per_image)))

    def order(self, seed: int, images_per_step: int, stream: int = 0) -> Order:
        """The order of the training images; `stream` tells the stages apart."""
        return Order(seed, self.train, self.ratios, images_per_step, stream)

    def held_out_order(self, images_per_step: int) -> InOrder:
        """The held-out images, each once."""
        return InOrder(self.held_out, images_per_step)

    def train_in_order(self, images_per_step: int) -> InOrder:
        """The training images, each once and in the order of their rows: for filling a cache."""
        return InOrder(self.train, images_per_step)

    def skipped(self, met: Sequence[BadLog]) -> Counter[str]:
        """How many samples of all sources could not be used, by kind: those that the readers left out and those that
        were `met` since, one log a source."""
        logs = [listing.all_bad(log) for listing, log in zip(self.listings, met, strict=True)]
        return sum((log.counts for log in logs), Counter())

    def fingerprint(self) -> str:
        """SHA-256 of what is trained on and held out: samples, captions, shares and split, wherever they lie."""
        digest = hashlib.sha256(repr(self.ratios).encode())
        for listing, train, held_out in zip(self.listings, self.train, self.held_out, strict=True):
            digest.update(listing.fingerprint().encode())
            for rows in (train, held_out):
                digest.update(np.asarray(rows, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Counts, hashes, formats, ratios and skipped samples for ``run.json``."""
        sources = []
        for number, listing in enumerate(self.listings):
            record = listing.describe()
            record["ratio"] = self.ratios[number] if self.ratios else None
            record["images_trained_on"] = len(self.train[number])
            record["images_held_out"] = len(self.held_out[number])
            sources.append(record)
        return {
            "images": self.images,
            "captions": int(
                sum(lst.captions_of(rows).sum() for lst, rows in zip(self.listings, self.train, strict=True))
            ),
            "images_held_out": self.held_out_images,
            "sources": sources,
        }


def open_data(
    paths: Sequence[str | Path | Listing],
    formats: Sequence[str] = (),
    ratios: Sequence[float] = (),
    *,
    val_images: int = 0,
    limit: int | None = None,
    bounds: Bounds = Bounds(),
    clean: Callable[[str], str] | None = None,
    split_seed: int = 0,
    hashes: bool = False,
    caption_key: str | None = None,
    wanted: Wanted | None = None,
) -> Data:
    """Open captioned images: read what is listed and whether the images' files are there; open no image yet.

    Args:
        paths: a file, folder or shard pattern each; ``FILE.json:FOLDER`` names the images' folder too. A `Listing`
            is taken as it is (images in memory).
        formats: the format of each path, one for all, or none: recognised by looking.
        ratios: the sampling ratio of each path, or none: every image equally often.
        val_images: images to hold out of training, at most a fifth of all; taken from each source in proportion.
        limit: most images to train on, from each source in proportion.
        bounds: how many bad samples are tolerated.
        clean: how captions are cleaned; default by format: captions as in the paper, conversations not at all.
        split_seed: chooses the held-out images and the limited ones. It is not the run's seed: runs with different
            seeds share their held-out images.
        hashes: compare tar shards with the SHA-256 of their manifest, where there is one.
        caption_key: the field, column or json key that holds the captions; None for the usual ones.
        wanted: captions of images that have none; each path's become a source of their own. Images with captions of
            their own are held out where there are any.

    Raises:
        DataError: a path is missing, empty, or of no known format; too many samples are bad; nothing to train on.
    """
    if not paths:
        raise DataError("no data is given", "give captioned images: --data PATH")
    if len(formats) not in (0, 1, len(paths)) or len(ratios) not in (0, len(paths)):
        raise DataError(f"{len(paths)} data paths, but {len(formats)} formats and {len(ratios)} ratios")
    each_format = formats if len(formats) == len(paths) else [formats[0] if formats else None] * len(paths)
    listings: list[Listing] = []
    weights: list[float] = []
    for number, (path, format) in enumerate(zip(paths, each_format, strict=True)):
        if isinstance(path, Listing):
            whole = path
        else:
            whole = read_source(str(path), format, clean, hashes, caption_key, pictures=wanted is not None)
        whole.bad.check(whole.samples, bounds, whole.path)
        if not len(whole):
            raise DataError(f"{whole.path} holds no captioned image", "give data with images and captions")
        parts = _parts(whole, wanted, None if limit is None else limit + val_images)
        listings += parts
        size = sum(map(len, parts))
        weights += [ratios[number] * (len(part) / size) if ratios else float(len(part)) for part in parts]
    sizes = [len(listing) for listing in listings]
    own = [0 if listing.captions_by or listing.awaits else len(listing) for listing in listings]
    told = own if any(own) else sizes
    held = _shares(min(val_images, int(sum(told) * MOST_HELD_OUT)), told)
    held = [min(share, size - 1) for share, size in zip(held, sizes, strict=True)]
    limits = [None] * len(sizes) if limit is None else [max(1, share) for share in _shares(limit, sizes)]
    splits = [split(n, h, m, split_seed) for n, h, m in zip(sizes, held, limits, strict=True)]
    return Data(
        listings=tuple(listings),
        ratios=_mixed(weights, own, wanted) if wanted and wanted.share else tuple(weights) if ratios else None,
        train=tuple(train for train, _ in splits),
        held_out=tuple(held_out for _, held_out in splits),
        bounds=bounds,
    )


def _parts(listing: Listing, wanted: Wanted | None, most: int | None) -> list[Listing]:
    """A source as it is, or what of it has captions and what will get some."""
    if wanted is None:
        return [listing]
    captioned, bare = parted(listing)
    described = [wanted.of(bare, most)] if bare is not None else []
    return [*([captioned] if captioned is not None else []), *described]


def _mixed(weights: Sequence[float], own: Sequence[int], wanted: Wanted) -> tuple[float, ...]:
    """The ratios with which images whose captions are `wanted` have their share of all draws.

    Raises:
        DataError: all images are of one kind.
    """
    total = {
        kind: sum(w for w, count in zip(weights, own, strict=True) if (count > 0) is kind) for kind in (True, False)
    }
    if not all(total.values()):
        missing = "images with captions of their own" if not total[True] else "images without captions"
        raise DataError(f"--caption-share mixes two kinds of images, but there are no {missing}", "leave it out")
    share = {True: 1 - (wanted.share or 0), False: wanted.share or 0}
    return tuple(share[count > 0] * w / total[count > 0] for w, count in zip(weights, own, strict=True))


def _shares(total: int, sizes: list[int]) -> list[int]:
    """Split `total` in proportion to `sizes`."""
    ends = [round(total * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]

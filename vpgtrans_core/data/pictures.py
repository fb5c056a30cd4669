"""Pictures without captions: parted from those that have some, and put together with captions written for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vpgtrans_core.data.bad import BadLog
from vpgtrans_core.data.listing import Images, Listing
from vpgtrans_core.data.order import split
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.data.strings import Strings

Describe = Callable[[Listing], Listing]
"""From a listing of pictures without captions to one of those of them that got captions."""


@dataclass(frozen=True)
class Wanted:
    """Captions that someone writes for pictures without any.

    Attributes:
        each: at most so many a picture.
        describe: who writes them; None where they are only planned.
        share: the share of the images drawn that have such captions; None for the share of the images.
    """

    each: int
    describe: Describe | None = None
    share: float | None = None

    def of(self, pictures: Listing, most: int | None) -> Listing:
        """The pictures with their captions, or with the number of captions that they await.

        Args:
            most: pictures that the run can use; no others are described.
        """
        rows = np.arange(len(pictures)) if most is None else split(len(pictures), 0, most)[0]
        chosen = dataclasses.replace(picked(pictures, rows), awaits=self.each)
        return self.describe(chosen) if self.describe else chosen


@dataclass(frozen=True)
class PickedImages:
    """Some rows of a listing's images, in order."""

    images: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> ImageRef:
        return self.images[int(self.rows[row])]


def parted(listing: Listing) -> tuple[Listing | None, Listing | None]:
    """The samples of a listing that have texts, and those that have none; None where there are none of a kind."""
    counts = listing.captions_of(np.arange(len(listing)))
    if counts.all():
        return listing, None
    if not counts.any():
        return None, listing
    bare = picked(listing, np.flatnonzero(counts == 0))
    return picked(listing, np.flatnonzero(counts)), dataclasses.replace(bare, bad=BadLog(), absent=0)


def picked(listing: Listing, rows: np.ndarray) -> Listing:
    """Some samples of a listing with one image each; those that are left out must have no texts."""
    if len(rows) == len(listing):
        return listing
    keys = Strings.of(listing.keys[int(row)] for row in rows)
    return dataclasses.replace(listing, keys=keys, images=PickedImages(listing.images, rows), ends=listing.ends[rows])


def with_captions(pictures: Listing, captions: Sequence[Sequence[str]], by: str) -> Listing:
    """The pictures that got captions, with them.

    Args:
        pictures: without texts.
        captions: of each of them; may be empty.
        by: who wrote them.
    """
    rows = np.flatnonzero([len(texts) > 0 for texts in captions])
    kept = picked(pictures, rows)
    counts = [len(captions[int(row)]) for row in rows]
    return dataclasses.replace(
        kept,
        texts=Strings.of(text for row in rows for text in captions[int(row)]),
        ends=np.cumsum(counts, dtype=np.int64),
        prompts=("",),
        prompt_of=np.zeros(sum(counts), dtype=np.int32),
        uncaptioned=len(pictures) - len(rows),
        captions_by=by,
        awaits=0,
    )

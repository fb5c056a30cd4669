"""The miniature's training pictures, as data that a run can be trained on."""

from __future__ import annotations

from vpgtrans_core.data.listing import Listing
from vpgtrans_core.miniature.data import items

IMAGES = 1500
"""As many as the miniature's source was trained on."""


def training(images: int = IMAGES) -> Listing:
    """The first `images` training pictures, drawn now: always the same ones."""
    drawn = items("train", images)
    return Listing.from_pairs([(i.image, i.captions) for i in drawn], name="miniature", keys=[i.key for i in drawn])

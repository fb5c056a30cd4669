"""How much disk a cache takes and whether that is within bounds, computed before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vpgtrans_core.cache.key import CacheKey

SPARE_BYTES = 1 << 30
"""Free disk space that a cache leaves to other programs."""


@dataclass(frozen=True)
class CachePlan:
    """What a cache would take.

    Attributes:
        kind: ``outputs`` or ``features``.
        images, views: how many, and views of each.
        bytes: of all of them.
        refusal: why it is not kept, or an empty text.
    """

    kind: str
    images: int
    views: int
    bytes: int
    refusal: str = ""

    def __str__(self) -> str:
        size = f"{self.kind} of {self.images} images" + (f" x {self.views} views" if self.views > 1 else "")
        said = f"{size}: {self.bytes / 1e9:.3g} GB"
        return f"{said}, not cached: {self.refusal}" if self.refusal else f"{said}, cached"


def plan_cache(root: Path, key: CacheKey, images: int, views: int, budget_gb: float) -> CachePlan:
    """Plan the cache of `key`: half a cache is of no use, so it is all of it or none.

    Args:
        images: images that the run sees, held-out ones included.
        budget_gb: most gigabytes (10^9 bytes) that it may take.
    """
    total = images * views * key.entry_bytes
    place = next((p for p in (root, *root.absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free - SPARE_BYTES
    refusal = ""
    if total > budget_gb * 1e9:
        refusal = f"more than --cache-gb {budget_gb:g}"
    elif total > free:
        refusal = f"{place} has {max(free, 0) / 1e9:.3g} GB to spare"
    return CachePlan(key.kind, images, views, total, refusal)

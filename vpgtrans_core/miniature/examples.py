"""Pictures of the drawn world for a page of examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from vpgtrans_core.miniature.world import SIDE, draw, sample

DRAWN = 3
ENLARGED = 6
"""Drawn pictures are shown in so many times their own size."""


def draw_examples(folder: Path) -> Sequence[Path]:
    """Draw pictures into `folder`, the same every time; return their files."""
    paths = []
    for number in range(DRAWN):
        rng = random.Random(f"page-{number}")
        picture = draw(sample(rng), rng)
        paths.append(folder / f"drawn-{number + 1}.png")
        picture.resize((SIDE * ENLARGED, SIDE * ENLARGED), resample=0).save(paths[-1])
    return paths

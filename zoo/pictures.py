"""Write the demo's data: ``python -m zoo.pictures FOLDER`` draws training pictures and pictures of unseen combinations.

Each has one caption in plain words, which tells everything that is there.

The pictures in ``FOLDER/unseen`` measure the held-out loss; `zoo.real_demo` judges on others of their kind.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vpgtrans_core.miniature.data import Item, items, save
from vpgtrans_core.miniature.language import plain_caption

TRAINING, UNSEEN = 1500, 32
UNSEEN_SEED = 1
"""Not the seed of the pictures that `zoo.real_demo` judges on."""


def write(folder: Path, images: int | None = None) -> None:
    """Write the pictures, each part as a folder with ``captions.json``."""
    save(in_plain_words(items("train", images or TRAINING)), folder / "train")
    save(in_plain_words(items("held", UNSEEN, seed=UNSEEN_SEED)), folder / "unseen")


def in_plain_words(found: Sequence[Item]) -> list[Item]:
    """The pictures with their one caption."""
    return [replace(item, captions=[plain_caption(item.scene)]) for item in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=TRAINING, help="training pictures")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.images)


if __name__ == "__main__":
    main()

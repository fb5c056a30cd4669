"""Pictures with captions, split by seed: what the miniature's models are trained and judged on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from vpgtrans_core.miniature.language import Question, captions, questions
from vpgtrans_core.miniature.world import Combos, Scene, draw, sample

Split = Literal["train", "val", "held"]
COMBOS: dict[Split, Combos] = {"train": "seen", "val": "seen", "held": "held"}
"""``train`` and ``val`` never show a held-out combination; every picture of ``held`` does."""


@dataclass(frozen=True)
class Item:
    """One picture with what can be said and asked of it."""

    key: str
    image: Image.Image
    captions: list[str]
    scene: Scene
    questions: list[Question]


def items(split: Split, count: int, seed: int = 0, num_captions: int = 5) -> list[Item]:
    """The first `count` items of a split. The same arguments give the same items, and a larger count only adds more."""
    return [_item(split, index, seed, num_captions) for index in range(count)]


def _item(split: Split, index: int, seed: int, num_captions: int) -> Item:
    key = f"{split}-{seed}-{index:05d}"
    rng = random.Random(key)
    scene = sample(rng, COMBOS[split])
    return Item(key, draw(scene, rng), captions(scene, rng, num_captions), scene, questions(scene, rng))


def save(found: Sequence[Item], folder: Path) -> None:
    """Write items as a folder of PNG files with ``captions.json``: a list of ``{image, caption, image_id}``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for item in found:
        name = f"images/{item.key}.png"
        item.image.save(folder / name)
        rows += [{"image": name, "caption": caption, "image_id": item.key} for caption in item.captions]
    (folder / "captions.json").write_text(json.dumps(rows, indent=0))


def save_training(count: int, folder: Path) -> None:
    """Write the first `count` training pictures with their captions to `folder`."""
    save(items("train", count), folder)

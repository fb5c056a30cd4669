"""The stages and values that ship: the paper's, and the same scaled for small models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vpgtrans_core.recipes.stage import Stage

LR_FACTOR = 5
"""The learning rate of the projector's warm-up over that of fine-tuning (paper, section 4.2)."""
LISTS: dict[str, tuple[int, ...]] = {"vpgtrans": (1, 2), "scratch": (2,), "inherit": (2,), "linear": (1,)}
"""The stages of each method, by number."""


@dataclass(frozen=True)
class Recipe:
    """Default values for settings that are left open.

    Attributes:
        warm_up: the paper's first stage: the projector alone, at a high constant learning rate.
        fine_tuning: the paper's second stage: the VPG and the projector.
        settings: values of further settings.
    """

    warm_up: Stage
    fine_tuning: Stage
    settings: dict[str, Any]

    @property
    def stages(self) -> dict[int, Stage]:
        return {stage.number: stage for stage in (self.warm_up, self.fine_tuning)}


PAPER = Recipe(
    warm_up=Stage(
        number=1, name="warm-up", trains=("projector",), epochs=1.0, lr=5e-4, schedule="constant", early_stop=True
    ),
    fine_tuning=Stage(
        number=2,
        name="fine-tuning",
        trains=("projector", "vpg"),
        epochs=1.0,
        lr=1e-4,
        min_lr=1e-5,
        lr_warmup_steps=2000,
        lr_warmup_start=1e-6,
    ),
    settings={"augment": True, "val_images": 500},
)
MINIATURE = Recipe(
    warm_up=replace(PAPER.warm_up, lr=LR_FACTOR * 3e-3),
    fine_tuning=replace(PAPER.fine_tuning, epochs=6.0, lr=3e-3, min_lr=1e-4, lr_warmup_steps=5, lr_warmup_start=1e-4),
    settings={"augment": False, "val_images": 100, "batch_size": 320, "workers": 0},
)
RECIPES = {"paper": PAPER, "miniature": MINIATURE}
"""By the names that `SourceCard.recipe` uses."""

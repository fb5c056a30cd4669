"""The stages and values that ship: the paper's, and the same scaled for small models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vpgtrans_core.recipes.stage import Stage

LR_FACTOR = 5
"""The learning rate of the projector's warm-up over that of fine-tuning (paper, section 4.2)."""
LISTS: dict[str, tuple[int, ...]] = {"vpgtrans": (1, 2), "scratch": (2,), "inherit": (2,), "linear": (1,), "tune": (3,)}
"""The stages of each method, by number."""
TUNING = 3
"""The number of instruction tuning, which may follow every method."""
INSTRUCTIONS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
"""What MiniGPT-4's descriptions are asked by."""
THEN: dict[str, dict[str, Any]] = {
    "instruction-tuning": {},
    "minigpt4-align": {"name": "minigpt4-align", "template": "minigpt4"},
}
"""What ``--then`` offers: instruction tuning with these values of its stage."""


@dataclass(frozen=True)
class Recipe:
    """Default values for settings that are left open.

    Attributes:
        warm_up: the paper's first stage: the projector alone, at a high constant learning rate.
        fine_tuning: the paper's second stage: the VPG and the projector.
        tuning: the stage that makes a chat model of it, MiniGPT-4's second and VL-Vicuna's third.
        settings: values of further settings.
    """

    warm_up: Stage
    fine_tuning: Stage
    tuning: Stage
    settings: dict[str, Any]

    @property
    def stages(self) -> dict[int, Stage]:
        return {stage.number: stage for stage in (self.warm_up, self.fine_tuning, self.tuning)}


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
    tuning=Stage(
        number=TUNING,
        name="instruction-tuning",
        trains=("projector", "vpg"),
        texts="instruction",
        instructions=INSTRUCTIONS,
        steps=800,
        batch_size=120,
        max_tokens=160,
        lr=1e-5,
        min_lr=1e-6,
        lr_warmup_steps=200,
        lr_warmup_start=1e-6,
        lr_warmup_share=0.25,
    ),
    settings={"augment": True, "val_images": 500},
)
MINIATURE = Recipe(
    warm_up=replace(PAPER.warm_up, lr=LR_FACTOR * 3e-3),
    fine_tuning=replace(PAPER.fine_tuning, epochs=6.0, lr=3e-3, min_lr=1e-4, lr_warmup_steps=5, lr_warmup_start=1e-4),
    tuning=replace(
        PAPER.tuning, steps=150, batch_size=64, lr=1e-3, min_lr=1e-4, lr_warmup_steps=5, lr_warmup_start=1e-4
    ),
    settings={"augment": False, "val_images": 100, "batch_size": 80, "workers": 0},
)
RECIPES = {"paper": PAPER, "miniature": MINIATURE}
"""By the names that `SourceCard.recipe` uses."""

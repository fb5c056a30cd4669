"""What is compared: the method, its baselines and its ablations, as changes to a run's settings. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Length = Literal["both", "tuning", "warm-up", "none"]
"""Which stages share the epochs: both, fine-tuning alone, the warm-up alone, or none is trained."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: the name in tables.
        settings: what it changes of a run's settings.
        length: how the experiment's epochs are spent.
        rate: the warm-up's learning rate as a multiple of fine-tuning's.
        needs_source: False if only the pre-trained VPG is used, so that all sources share the run.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    length: Length = "both"
    rate: float = 5.0
    needs_source: bool = True

    def lengths(self, epochs: float, warm_up: float) -> dict[str, Any]:
        """The settings of the stages' lengths: `epochs` in all, of which `warm_up` are the first stage's."""
        if self.length == "tuning":
            return {"stage2_epochs": epochs}
        if self.length == "warm-up":
            return {"stage1_epochs": epochs}
        if self.length == "none":
            return {"stage1_epochs": 0.0}
        return {"stage1_epochs": warm_up, "stage2_epochs": max(epochs - warm_up, 0.0)}


_PAPER = {"start": "converter", "converter": "sgd", "stage1_optimizer": "adamw"}
_WARM_UP = {**_PAPER, "stages": [1]}

ARMS: dict[str, Arm] = {
    "scratch": Arm("from scratch (TFS)", {"method": "scratch"}, "tuning", needs_source=False),
    "inherit": Arm("VPG-inherit", {"method": "inherit"}, "tuning"),
    "linear": Arm("only-linear", {"method": "linear"}, "warm-up"),
    "transfer": Arm("VPGTrans, as in the paper", _PAPER),
    "words": Arm("vpgt's default", {"start": "words"}),
    "no-converter": Arm("VPGTrans without converter", {**_PAPER, "start": "random"}),
    "no-warm-up": Arm("converter, no warm-up", {**_PAPER, "stages": [2]}, "tuning"),
    "shuffled": Arm("converter from shuffled pairs", {"start": "converter", "shuffle_pairs": True,
                                                      "stage1_optimizer": "adamw"}),
    "warm-up-1x": Arm("warm-up, converter, 1x", _WARM_UP, "warm-up", 1.0),
    "warm-up-5x": Arm("warm-up, converter, 5x", _WARM_UP, "warm-up", 5.0),
    "warm-up-10x": Arm("warm-up, converter, 10x", _WARM_UP, "warm-up", 10.0),
    "warm-up-random-1x": Arm("warm-up, no converter, 1x", {**_WARM_UP, "start": "random"}, "warm-up", 1.0),
    "warm-up-random-5x": Arm("warm-up, no converter, 5x", {**_WARM_UP, "start": "random"}, "warm-up", 5.0),
    "merged": Arm("merged projector, untrained", _WARM_UP, "none"),
    "advice": Arm("start from words, untrained", {"start": "words", "stages": [1]}, "none"),
    "source": Arm("a source, trained here", {"method": "scratch"}, "tuning", needs_source=False),
}  # fmt: skip
"""The arms that experiments name."""

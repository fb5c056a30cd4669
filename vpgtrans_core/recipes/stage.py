"""A training stage as data: what it trains, on what, for how long, and at which learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from vpgtrans_core.data.conversation import TextKind

Group = Literal["projector", "vpg", "lora"]
"""The parts of a VL-LLM that a stage may train, see `VLModel.groups`. The LLM is always frozen; ``lora`` stands for
adapters in its attention."""
Texts = TextKind
"""How the texts of an image become labels."""
Optimizer = Literal["adamw", "muon"]
Schedule = Literal["constant", "cosine", "muon"]

Positive = Annotated[int, Gt(0)]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]
Rate = Annotated[float, Gt(0)]
Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        number: from 1; seeds the random numbers and the order of the images, and names checkpoints and metrics.
        name: shown to users; unique within a run.
        trains: the groups of parameters that are trained; all others are frozen.
        data, format, ratios: as the settings of the same names; empty for the run's own data.
        texts: how texts become labels.
        template: as the setting of the same name; None for the run's own.
        instructions: what a description without a question of its own is asked by, where whole conversations are
            learned; one of them at random, none for nothing.
        steps, epochs: the length; steps take precedence.
        batch_size, captions_per_image, max_tokens: as the settings of the same names; None for the run's own.
        optimizer: Muon is for the projector's weight; beside it AdamW trains whatever else the stage trains.
        lr: the peak learning rate of AdamW.
        min_lr: the learning rate at the end of a cosine.
        schedule: ``constant``; ``cosine``, after a linear warm-up of the learning rate; ``muon``, the optimiser's own.
        lr_warmup_steps, lr_warmup_start: steps of that warm-up, and the learning rate at its start.
        lr_warmup_share: the largest share of the stage that the warm-up takes, however short the stage is.
        early_stop: whether the stage ends when its held-out loss no longer falls.
    """

    number: int
    name: str
    trains: tuple[Group, ...]
    lr: Rate
    steps: Count | None = None
    epochs: Amount | None = None
    data: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    ratios: tuple[Rate, ...] = ()
    texts: Texts = "caption"
    template: str | None = None
    instructions: tuple[str, ...] = ()
    batch_size: Positive | None = None
    captions_per_image: Positive | None = None
    max_tokens: Positive | None = None
    optimizer: Optimizer = "adamw"
    min_lr: Amount = 0.0
    schedule: Schedule = "cosine"
    lr_warmup_steps: Count = 0
    lr_warmup_start: Amount = 0.0
    lr_warmup_share: Share = 0.1
    early_stop: bool = False

    @property
    def trains_vpg(self) -> bool:
        """Whether the VPG changes: then its frozen features can be cached, and not its outputs."""
        return "vpg" in self.trains

    def steps_for(self, steps_per_epoch: int) -> int:
        """The steps of the stage: as given, or by its epochs."""
        return self.steps if self.steps is not None else round((self.epochs or 0) * steps_per_epoch)

    def problems(self) -> list[str]:
        """Contradictions between the fields, each with the stage's name in front."""
        problems = []
        if not self.trains or len(set(self.trains)) != len(self.trains):
            problems.append("trains: must name at least one group, and each once")
        if self.steps is None and self.epochs is None:
            problems.append("steps or epochs: one of them must be given")
        if self.optimizer == "muon" and "projector" not in self.trains:
            problems.append("optimizer: muon is for the projector, which the stage does not train; use adamw")
        if (self.optimizer == "muon") != (self.schedule == "muon"):
            problems.append("schedule: the optimiser muon needs the schedule muon, and no other optimiser can use it")
        problems += data_problems(self.data, self.format, self.ratios)
        return [f"stage {self.name!r}: {problem}" for problem in problems]


def data_problems(data: tuple[str, ...], format: tuple[str, ...], ratios: tuple[float, ...]) -> list[str]:
    """Contradictions between data sources, their formats and their sampling ratios."""
    problems = []
    if ratios and len(ratios) != len(data):
        problems.append(f"ratios: {len(ratios)} given for {len(data)} data sources")
    if len(format) not in (0, 1, len(data)):
        problems.append(f"format: {len(format)} given for {len(data)} data sources")
    return problems

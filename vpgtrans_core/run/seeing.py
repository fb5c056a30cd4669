"""What a run's model sees: measured after each stage, between the text-only loss and the source's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vpgtrans_core.machine import Machine
from vpgtrans_core.run.feed import Feed
from vpgtrans_core.sight.measure import characters, exchanged_loss, text_only_loss
from vpgtrans_core.sight.verdict import Losses, Verdict, judge
from vpgtrans_core.train.stage import StageState
from vpgtrans_core.train.step import Stepper


class Seeing:
    """The measurements of one run. What belongs to the data alone is measured once for stages that share it.

    Args:
        source: the source's own losses a character, see `measure_source`.
    """

    def __init__(self, machine: Machine, source: Mapping[str, Any]) -> None:
        self.machine = machine
        self.source = source
        self._lines: dict[Any, Losses] = {}
        self._first: Any = None

    def lines(self, stepper: Stepper, feed: Feed) -> Losses:
        """The losses to stay between on a stage's held-out texts: without pictures, and the source's own.

        The source was measured on the texts of the run's first stage."""
        key = id(feed.all), feed.texts, feed.settings.max_tokens
        self._first = self._first or key
        if key not in self._lines:
            held_out = list(feed.held_out())
            lines = Losses(text_only=text_only_loss(stepper, held_out))
            self._lines[key] = self._with_source(lines, stepper, feed) if key == self._first else lines
        return self._lines[key]

    def _with_source(self, lines: Losses, stepper: Stepper, feed: Feed) -> Losses:
        long = characters(stepper, feed.held_out())
        if "loss" not in self.source or not long.labels:
            return lines
        each = long.nats / long.labels  # characters a token of the target
        sees = None
        if "exchanged" in self.source:
            sees = (self.source["exchanged"] - self.source["own"]) * each
        return replace(lines, source=self.source["loss"] * each, source_sees=sees)

    def after(self, stepper: Stepper, feed: Feed, state: StageState) -> Losses:
        """All losses at the end of a stage. Every process must call it."""
        lines = replace(self.lines(stepper, feed), first=state.first_held_out_loss, loss=state.held_out_loss)
        found = exchanged_loss(stepper, feed.held_out(), self.machine.accelerator.gather_object)
        return replace(lines, own=found.own, exchanged=found.exchanged) if found else lines


def verdict_of(stages: Mapping[str, Any], examples: list[dict[str, Any]]) -> Verdict:
    """The verdict on a finished run.

    Args:
        stages: of the run's record; the last one that measured its losses counts, and the run's first loss if all
            stages train on the same data.
        examples: what the model says of some images, and a caption of each.
    """
    measured = [stage for stage in stages.values() if stage.get("sight")]
    losses = Losses()
    if measured:
        values = {name: value for name, value in measured[-1]["sight"].items() if name != "sees"}
        first = measured[-1 if any("data" in stage for stage in stages.values()) else 0]["sight"].get("first")
        losses = replace(Losses(**values), first=first)
    return judge(
        losses,
        [example["said"] for example in examples],
        [example["caption"] for example in examples],
        steps=sum(stage["steps"] for stage in stages.values()),
        at_chance=any(stage.get("llm_at_chance") for stage in stages.values()),
    )

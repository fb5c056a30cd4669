"""What the cells of a laboratory measured, arranged for comparison: by pair, arm and seed. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vpgtrans_core.lab.experiment import Experiment, Pair
from vpgtrans_core.lab.folder import DONE, LabFolder
from vpgtrans_core.lab.matrix import Cell, cells

Axis = Literal["epochs", "captions", "seconds"]
LOSS = "held-out loss"
"""What stands for a task where losses are compared."""
Curve = list[tuple[float, float]]
"""Points ``(cost, score)`` in the order of training."""


@dataclass(frozen=True)
class Finished:
    """A finished cell and its record."""

    cell: Cell
    record: dict[str, Any]

    def curve(self, task: str, axis: Axis = "epochs") -> Curve:
        """The scores of a task by its metric that counts; higher is better. `LOSS` is the negative held-out loss."""
        if task == LOSS:
            return [(x, -loss) for x, loss in self.losses() if x > 0] if axis == "epochs" else []
        found = []
        for point in self.record.get("points", []):
            one = point["scores"].get(task)
            if one is not None:
                found.append((self.cost(point, axis), one["scores"][one["counts"]]))
        return found

    def losses(self) -> Curve:
        """The held-out losses over the epochs; lower is better. Where a stage follows another, the later counts."""
        before, curve = 0, dict[float, float]()
        last: dict[str, Any] | None = None
        for row in self.record["held_out"]:
            if last is not None and row["stage"] != last["stage"]:
                before += last["step"]
            curve[(before + row["step"]) / self.record["steps_per_epoch"]] = row["held_out_loss"]
            last = row
        return sorted(curve.items())

    def final(self, task: str) -> float | None:
        """The score at the end."""
        curve = self.curve(task)
        return curve[-1][1] if curve else None

    def own_picture(self, task: str) -> float | None:
        """By how much the score at the end is above that of the same answers under other pictures."""
        points = [p["scores"][task] for p in self.record.get("points", []) if task in p["scores"]]
        if not points or points[-1].get("exchanged") is None:
            return None
        return float(points[-1]["scores"][points[-1]["counts"]] - points[-1]["exchanged"])

    def after(self, task: str, epochs: float) -> float | None:
        """The score after so many epochs."""
        return next((score for x, score in self.curve(task) if abs(x - epochs) < 0.05), None)

    def cost(self, point: dict[str, Any], axis: Axis) -> float:
        if axis == "epochs":
            return float(point["steps"] / self.record["steps_per_epoch"])
        return float(point[axis])


@dataclass(frozen=True)
class Results:
    """One experiment's cells: those that are finished, and what became of the others."""

    experiment: Experiment
    cells: tuple[Cell, ...]
    finished: dict[str, Finished]
    failed: dict[str, str]

    @property
    def tasks(self) -> list[str]:
        return list(self.experiment.tasks)

    def of(self, pair: Pair, arm: str) -> list[Finished]:
        """The finished cells of an arm, one a seed; an arm without source is the same for all sources."""
        alone = not self.experiment.arm(arm).needs_source
        return [
            f for f in self.finished.values()
            if f.cell.arm == arm and f.cell.target == pair.target and (alone or f.cell.source == pair.source)
        ]  # fmt: skip

    def any_of(self, pair: Pair) -> list[Finished]:
        """The finished cells of a pair, whatever their arm."""
        return [found for arm in self.experiment.arms for found in self.of(pair, arm)]

    def pairs(self) -> list[Pair]:
        return self.experiment.all_pairs()

    def across(self) -> list[Pair]:
        """The pairs of two families."""
        sized = {p: runs[0].record["sizes"] for p in self.pairs() if (runs := self.of(p, "transfer"))}
        return [pair for pair, sizes in sized.items() if sizes["source_family"] != sizes["target_family"]]

    def has(self, *arms: str) -> bool:
        """Whether the experiment compares these arms."""
        return set(arms) <= set(self.experiment.arms)


def collect(lab: LabFolder) -> list[Results]:
    """The results of every experiment in a laboratory's folder.

    Raises:
        ConfigError: it is not one.
    """
    found = []
    for experiment in lab.experiments():
        own = cells(experiment)
        records = {cell.id: lab.record(cell.id) for cell in own}
        done = {c.id: Finished(c, records[c.id]) for c in own if records[c.id].get("status") == DONE}
        failed = {i: str(r["error"]) for i, r in records.items() if r.get("status") == "failed"}
        found.append(Results(experiment, tuple(own), done, failed))
    return found


def name_of(pair: Pair) -> str:
    """A pair as tables show it."""
    return f"{last(pair.source)} → {last(pair.target)}"


def last(name: str) -> str:
    """A model's name without the folders before it."""
    return name.rstrip("/").rpartition("/")[2]


def median(values: Sequence[float]) -> float:
    """The lower of the two middle ones, where there are two."""
    return statistics.median_low(values)


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def spread(values: Sequence[float], digits: int = 1, factor: float = 1.0) -> str:
    """The mean of the seeds, and the lowest and highest in brackets; a dash without values."""
    if not values:
        return "–"
    low, high = min(values) * factor, max(values) * factor
    middle = f"{mean(values) * factor:.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{low:.{digits}f}, {high:.{digits}f}]"

"""All metrics over all samples, and over each group of them. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores
from vpgtrans_core.evaluation.task import EvalSample


@dataclass(frozen=True)
class Scored:
    """What one metric says: of all samples, and of each group by itself."""

    name: str
    title: str
    whole: Scores
    groups: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalResult:
    """A finished evaluation.

    Attributes:
        task: the task's name.
        model: the model as it was named, or the file of given answers.
        folder: where everything was written.
        samples: how many were answered; `groups` counts them by group.
        scored: one entry a metric, in the order in which papers quote them.
    """

    task: str
    model: str
    folder: str
    samples: int
    groups: dict[str, int]
    scored: tuple[Scored, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for json; scores as fractions."""
        scores = {one.name: {"all": one.whole.value, **one.groups} for one in self.scored}
        counts = {"all": self.samples, **self.groups}
        return {"task": self.task, "model": self.model, "folder": self.folder, "samples": counts, "scores": scores}

    def rows(self) -> list[tuple[str, ...]]:
        """A table: a heading, then one row for all samples and one a group; scores times 100, as papers print them."""
        table = [("", "samples", *(one.title for one in self.scored))]
        table.append(("all", str(self.samples), *(f"{100 * one.whole.value:.2f}" for one in self.scored)))
        for group, count in self.groups.items():
            table.append((group, str(count), *(f"{100 * one.groups[group]:.2f}" for one in self.scored)))
        return table


def score(metrics: Mapping[str, Metric], samples: Sequence[EvalSample], answers: Sequence[str]) -> tuple[Scored, ...]:
    """Score answers, one a sample."""
    references = [sample.references for sample in samples]
    scored = []
    for name, metric in metrics.items():
        groups = {}
        for group in group_counts(samples):
            inside = [number for number, sample in enumerate(samples) if sample.group == group]
            groups[group] = metric.score([answers[i] for i in inside], [references[i] for i in inside]).value
        scored.append(Scored(name, metric.title, metric.score(answers, references), groups))
    return tuple(scored)


def group_counts(samples: Sequence[EvalSample]) -> dict[str, int]:
    """How many samples each group has; empty where there is no more than one."""
    names = sorted({sample.group for sample in samples} - {""})
    if len({sample.group for sample in samples}) < 2:
        return {}
    return {name: sum(sample.group == name for sample in samples) for name in names}

"""What a metric is. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Scores:
    """A metric's value over all samples, and each sample's own, as fractions: papers print them times 100."""

    value: float
    each: tuple[float, ...]


def mean(each: Sequence[float]) -> Scores:
    """The scores of a metric that is the mean over its samples."""
    return Scores(sum(each) / max(len(each), 1), tuple(each))


class Metric(ABC):
    """One metric. Subclass it, and name the class in an `EvalMetric` card; it is made without arguments, before the
    model is loaded: its constructor raises a `VpgtError` where something that it needs is missing.

    Attributes:
        title: the name in tables.
    """

    title: ClassVar[str]

    @abstractmethod
    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """Compare answers with their references; at least one sample, each with at least one reference."""

"""The speed-up of a transfer by the paper's definition. No torch.

The cost at which training from scratch has its best score, over the cost at which the transfer first reaches that score
(its warm-up counted). In epochs it is the paper's; in captions and seconds it says the same of data and of time.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpgtrans_core.lab.experiment import Pair
from vpgtrans_core.lab.results import Axis, Curve, Results, spread


@dataclass(frozen=True)
class SpeedUps:
    """The speed-ups of one pair, arm and task over the seeds; `never` counts seeds that did not reach the score."""

    values: tuple[float, ...]
    never: int

    def __str__(self) -> str:
        if not self.values and not self.never:
            return "–"
        if not self.values:
            return "never" if self.never == 1 else f"never ({self.never} seeds)"
        return spread(self.values) + (f", {self.never} of {self.never + len(self.values)} never" if self.never else "")


def speed_up(scratch: Curve, other: Curve) -> float | None:
    """The speed-up of `other`; None if it never reaches the best score of training from scratch."""
    best = max(score for _, score in scratch)
    taken = next(cost for cost, score in scratch if score == best)
    reached = next((cost for cost, score in other if score >= best), None)
    return None if reached is None else taken / reached if reached else float("inf")


def speed_ups(results: Results, pair: Pair, arm: str, task: str, axis: Axis = "epochs") -> SpeedUps:
    """Seed by seed: the arm against training from scratch with the same seed."""
    scratch = {f.cell.seed: f.curve(task, axis) for f in results.of(pair, "scratch")}
    found: list[float | None] = [
        speed_up(scratch[f.cell.seed], f.curve(task, axis))
        for f in results.of(pair, arm)
        if scratch.get(f.cell.seed) and f.curve(task, axis)
    ]
    return SpeedUps(tuple(v for v in found if v is not None), sum(v is None for v in found))

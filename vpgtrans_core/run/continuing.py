"""Continuing a run from its checkpoint: what that states is compared with the run before any of it is used."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from vpgtrans_core.errors import ModelError
from vpgtrans_core.run.shapes import StateShape
from vpgtrans_core.train.checkpoint import CHANGED, STATE, Checkpoint
from vpgtrans_core.train.stage import StageRunner, load_weights
from vpgtrans_core.validation import misfits

if TYPE_CHECKING:
    from vpgtrans_core.run.folder import RunFolder

SHOWN = 8
"""Most wrong values of a checkpoint that are named."""


class Restores(Protocol):
    """A feed: it takes back what `state` of it put into a checkpoint."""

    def restore(self, state: dict[str, Any]) -> None: ...


def check_state(checkpoint: Checkpoint, stages: Collection[int], folder: RunFolder, *, accept: bool) -> None:
    """Check a checkpoint's plain values, before anything is loaded for it.

    Args:
        stages: the numbers of the run's stages.
        folder: the run's.
        accept: whether the run may have lost the checkpoint's stage, as ``--accept-changes`` allows.

    Raises:
        ModelError: values are missing or of wrong types, contradict each other, or name a stage that the run does not
            have.
    """
    wrong = misfits(StateShape, checkpoint.state)
    if not wrong and (done := checkpoint.state["progress"]["step"]) != checkpoint.step:
        wrong = [f"progress.step is {done}, but step is {checkpoint.step}"]
    if not wrong and not folder.ends_a_line(checkpoint.state["metrics_size"]):
        wrong = [f"metrics_size {checkpoint.state['metrics_size']} is inside a line"]
    if not wrong and not accept and stages and checkpoint.stage not in stages:
        wrong = [f"the run has the stages {', '.join(map(str, stages))}"]
    if wrong:
        raise _unusable(checkpoint, wrong)


def resume_stage(
    runner: StageRunner, feed: Restores, checkpoint: Checkpoint, *, micro_positions: bool, accept: bool
) -> bool:
    """Continue inside the stage of `checkpoint`; or, where the run no longer has that stage, begin the one after it.

    Args:
        micro_positions: whether the checkpoint says how micro-batches are cut, and not the settings.
        accept: whether the stage may have become shorter than it was.

    Returns:
        whether it is the checkpoint's own stage.

    Raises:
        ModelError: the checkpoint does not fit the stage.
    """
    state, plan = checkpoint.state, runner.plan
    if plan.number != checkpoint.stage:
        load_weights(runner.model, checkpoint)
        runner.folder.cut_metrics(state["metrics_size"])
        return False
    progress = state["progress"]
    early = progress.get("done") and not progress.get("stopped") and checkpoint.step < plan.steps
    if (early or checkpoint.step > plan.steps) and not accept:
        raise _unusable(checkpoint, [f"the stage has {plan.steps} steps" + " and is said to be done" * bool(early)])
    runner.restore(checkpoint)
    if micro_positions and "micro_positions" in state:
        runner.stepper.micro_positions = state["micro_positions"]  # the same micro-batches as before
    feed.restore(state.get("feed", {}))
    return True


def _unusable(checkpoint: Checkpoint, wrong: list[str]) -> ModelError:
    listed = "; ".join(wrong[:SHOWN])
    return ModelError(
        f"the checkpoint of stage {checkpoint.stage} step {checkpoint.step} was changed after vpgt wrote it, or is of "
        f"another run: its {STATE} does not fit: {listed}",
        CHANGED,
    )

"""One stage of training: steps, held-out losses, checkpoints, early stopping.

All randomness in a step is a function of (seed, stage, step, process), so that a resumed run continues bit for bit like
an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.train.checkpoint import Checkpoint, check_fits, save_checkpoint
from vpgtrans_core.train.optim import (
    EarlyStop,
    clip_gradients,
    load_optimizer_tensors,
    optimizer_tensors,
    set_rates,
)
from vpgtrans_core.train.parts import Computes, Trainable
from vpgtrans_core.train.signals import Interrupted, StopSignals
from vpgtrans_core.train.step import StepResult
from vpgtrans_core.vlm.model import snapshot

AT_CHANCE = 0.02
"""How near to the loss of equal probabilities, relatively, an LLM's loss is that predicts at chance."""
MAX_BAD_STEPS = 5
"""Consecutive steps with a non-finite loss or gradient after which the run stops."""


class Progress(Protocol):
    """Receives the progress of a run, like the command line's reporter."""

    def stage(self, name: str, total: int) -> None: ...
    def step(self, advance: int = 1, **values: float) -> None: ...
    def message(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...


class StageFolder(Protocol):
    """Where a stage's metrics and checkpoints go; a run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path: ...
    def add_metrics(self, **values: Any) -> None: ...
    def metrics_size(self) -> int: ...
    def cut_metrics(self, size: int) -> None: ...


@dataclass(frozen=True)
class StagePlan:
    """The plan of a stage. `factor` maps a step to its share of the peak learning rate."""

    stage: Stage
    steps: int
    factor: Callable[[int], float]
    clip_norm: float
    validate_every: int
    seed: int = 0
    checkpoint_minutes: float = 15.0
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 2

    @property
    def number(self) -> int:
        return self.stage.number


@dataclass
class StageState:
    """The progress of a stage in plain numbers, saved with every checkpoint."""

    step: int = 0
    bad_in_a_row: int = 0
    bad_steps: int = 0
    images: int = 0
    captions: int = 0
    seconds: float = 0.0
    held_out_loss: float | None = None
    first_held_out_loss: float | None = None
    llm_at_chance: bool = False
    early_stop: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    done: bool = False


class StageRunner:
    """Runs one stage.

    Args:
        plan: the plan of the stage.
        model: the model, after `model.train_only(plan.stage.trains)`.
        stepper: computes losses and gradients.
        optimizer: the optimiser of the trainable parameters.
        batches: yields the batches from a given step on, each with the seconds spent waiting for it.
        held_out: gives the batches of the held-out loss; empty for none.
        folder: receives metrics and checkpoints.
        changed: the parameter groups that the run has changed by the end of this stage; a checkpoint holds them.
        extra_state: called at each checkpoint for further state (bad samples, for example).
        validated: called in all processes after each validation, with the step and the held-out loss.

    Attributes:
        enough: a held-out loss with which the stage need not begin; None to train in any case.
    """

    def __init__(
        self,
        plan: StagePlan,
        model: Trainable,
        stepper: Computes,
        optimizer: torch.optim.Optimizer,
        batches: Callable[[int], Iterator[tuple[Any, float]]],
        held_out: Callable[[], Iterable[Any]],
        folder: StageFolder,
        progress: Progress,
        changed: Collection[str],
        emit: Callable[[RunEvent], None] = lambda event: None,
        extra_state: Callable[[], dict[str, Any]] = dict,
        validated: Callable[[int, float | None], None] = lambda step, loss: None,
    ) -> None:
        self.plan = plan
        self.model = model
        self.stepper = stepper
        self.optimizer = optimizer
        self.batches = batches
        self.held_out = held_out
        self.folder = folder
        self.progress = progress
        self.changed = changed
        self.emit = emit
        self.extra_state = extra_state
        self.validated = validated
        self.enough: float | None = None
        self.state = StageState()
        self._stopper = EarlyStop()
        fp16 = stepper.half == torch.float16
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=fp16)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of this stage.

        Raises:
            ModelError: it has other parameters, or an optimiser's state that is none of theirs.
        """
        load_weights(self.model, checkpoint, self.model.parameters_of(self.changed))
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer, checkpoint.state["optimizer"])
        self.state = StageState(**checkpoint.state["progress"])
        self._stopper = EarlyStop(**self.state.early_stop)
        if checkpoint.state.get("scaler"):
            self._scaler.load_state_dict(checkpoint.state["scaler"])
        self.folder.cut_metrics(int(checkpoint.state["metrics_size"]))

    def run(self) -> StageState:
        """Train to the end of the stage and save a checkpoint there.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; a checkpoint was saved.
            VpgtError: `MAX_BAD_STEPS` consecutive losses were not finite; those steps did not change the weights.
        """
        plan, state = self.plan, self.state
        self.progress.stage(f"stage {plan.number} ({plan.stage.name})", plan.steps - state.step)
        self._emit("stage_start", steps=plan.steps, name=plan.stage.name)
        if state.step == 0 and not state.done:
            state.first_held_out_loss = self._validate()
            self._warn_at_chance(state.first_held_out_loss)
            self._end_if_enough(state.first_held_out_loss)
        saved = time.monotonic()
        with StopSignals() as signals:
            for batch, waited in self.batches(state.step) if not self._finished() else ():
                began = time.monotonic()
                result, norm = self._train_step(batch, signals.received)
                self._count(result, norm, waited, time.monotonic() - began)
                if self._due(plan.validate_every) and state.step < plan.steps:
                    self._check_early_stop(self._validate())
                stop = result.signal
                if stop or self._checkpoint_due(saved):
                    self.save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(stop, str(self.folder.path))
                if self._finished():
                    break
            late = self.stepper.largest(signals.received)  # one that came in the last step
        if not state.done:
            state.done = True
            state.held_out_loss = self._validate()
            self.save()
        if late:
            raise Interrupted(late, str(self.folder.path))
        self._emit("stage_end", held_out_loss=state.held_out_loss)
        return state

    def save(self) -> None:
        """Write a checkpoint (main process) and wait until it is written (all processes)."""
        accelerator = self.stepper.accelerator
        self.state.early_stop = self._stopper.state()
        tensors, numbers = optimizer_tensors(self.optimizer)
        extra = self.extra_state()
        if accelerator.is_main_process:
            state = {
                "stage": self.plan.number,
                "step": self.state.step,
                "progress": vars(self.state),
                "optimizer": numbers,
                "scaler": self._scaler.state_dict(),
                "micro_positions": self.stepper.micro_positions,
                "metrics_size": self.folder.metrics_size(),
                **extra,
            }
            weights = snapshot(self.model.parameters_of(self.changed))
            path = save_checkpoint(
                self.folder.checkpoints, Checkpoint(weights, tensors, state), keep=self.plan.keep_checkpoints
            )
            self._emit("checkpoint", path=str(path))
        accelerator.wait_for_everyone()

    def _train_step(self, batch: Any, signal: int) -> tuple[StepResult, float]:
        """Compute gradients and take the step, unless the loss or its gradient is not finite."""
        plan, state = self.plan, self.state
        torch.manual_seed(step_seed(plan.seed, plan.number, state.step, self.stepper.accelerator.process_index))
        self.optimizer.zero_grad(set_to_none=True)
        set_rates(self.optimizer, plan.factor(state.step))
        self._scaler.scale(
            torch.zeros((), device=self.model.device)
        )  # creates the scale also in a process without images
        result = self.stepper.backward(batch, signal, self._scaler.scale)
        if not result.labels:
            return result, 0.0
        self._scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.stepper.parameters, plan.clip_norm)
        if math.isfinite(result.loss) and math.isfinite(norm):
            self.optimizer.step()
            state.bad_in_a_row = 0
        else:
            self._skip(result.loss, norm)
        self._scaler.update()
        return result, norm

    def _skip(self, loss: float, norm: float) -> None:
        """Count a step whose loss or gradient is not finite; the weights stay unchanged."""
        state = self.state
        if self._scaler.is_enabled() and math.isfinite(loss) and self._scaler.get_scale() > 1:
            return  # fp16: the loss scale was too high, and the scaler lowers it, as it should
        state.bad_in_a_row += 1
        state.bad_steps += 1
        self.progress.warning(
            f"stage {self.plan.number} step {state.step + 1} is skipped: loss {loss}, gradient norm {norm}"
        )
        if state.bad_in_a_row >= MAX_BAD_STEPS:
            raise VpgtError(
                f"the loss or its gradient was not finite in {MAX_BAD_STEPS} consecutive steps of stage "
                f"{self.plan.number}; these steps did not change the weights",
                "try --dtype float32 or bfloat16, or a lower learning rate; --resume continues from the last "
                "checkpoint",
            )

    def _count(self, result: StepResult, norm: float, waited: float, seconds: float) -> None:
        """Record a finished step."""
        state = self.state
        state.step += 1
        state.images += result.images
        state.captions += result.captions
        state.seconds += seconds + waited
        rate = self.optimizer.param_groups[0]["lr"]
        values = {
            "loss": result.loss,
            "lr": rate,
            "grad_norm": norm,
            "images": result.images,
            "captions": result.captions,
            "labels": result.labels,
            "seconds": round(seconds, 4),
            "waited": round(waited, 4),
        }
        self.folder.add_metrics(stage=self.plan.number, step=state.step, **values)
        if state.step == 1 and state.first_held_out_loss is None and result.labels:
            self._warn_at_chance(result.loss)  # nothing is held out
        share = waited / max(waited + seconds, 1e-9)
        self.progress.step(
            1, loss=result.loss, images_per_second=result.images / max(waited + seconds, 1e-9), waiting=share
        )
        self._emit("step", **values)

    def _validate(self) -> float | None:
        """The held-out loss: the mean over all held-out labels of all processes; None without labels."""
        self.model.eval()
        loss = self._held_out_loss()
        if loss is not None:
            self.folder.add_metrics(stage=self.plan.number, step=self.state.step, held_out_loss=loss)
            self.progress.message(f"stage {self.plan.number} step {self.state.step}: held-out loss {loss:.4f}")
            self._emit("validation", held_out_loss=loss)
        self.validated(self.state.step, loss)
        self.model.train_only(self.plan.stage.trains)
        return loss

    def _held_out_loss(self) -> float | None:
        total, labels = 0.0, 0
        for batch in self.stepper.even(self.held_out()):
            loss, count = self.stepper.loss_sum(batch)
            total, labels = total + loss, labels + count
        sums = torch.tensor([total, float(labels)], dtype=torch.float64, device=self.model.device)
        sums = self.stepper.accelerator.reduce(sums, reduction="sum")
        return float(sums[0] / sums[1]) if sums[1] else None

    def _warn_at_chance(self, loss: float | None) -> None:
        """Tell the user of an LLM that predicts captions no better than chance: training a VPG cannot mend that."""
        chance = self.model.chance
        if loss is not None and chance is not None and abs(loss - chance) < AT_CHANCE * chance:
            self.state.llm_at_chance = True
            self.progress.warning(
                f"the LLM predicts the captions at chance (loss {loss:.2f}; the logarithm of its vocabulary's size is "
                f"{chance:.2f}). Its weights may be delta weights, random, or of another model; check that the LLM "
                "alone writes sensible text before you train"
            )

    def _end_if_enough(self, loss: float | None) -> None:
        """End the stage before its first step if its held-out loss is good enough as it is."""
        if self.enough is not None and loss is not None and loss <= self.enough:
            self.progress.message(
                f"stage {self.plan.number} is not needed: a held-out loss of {loss:.4f} is as good as the source's own"
            )
            self.state.stopped = True

    def _check_early_stop(self, loss: float | None) -> None:
        """Store a held-out loss and end the stage if it no longer falls."""
        self.state.held_out_loss = loss
        if loss is None or not math.isfinite(loss):
            return  # the training steps will also have such losses, and stop the run
        if self.plan.stage.early_stop and self._stopper.update(loss):
            self.progress.message(f"stage {self.plan.number}: the held-out loss no longer falls; the stage ends early")
            self.state.stopped = True

    def _finished(self) -> bool:
        return self.state.done or self.state.stopped or self.state.step >= self.plan.steps

    def _due(self, every: int | None) -> bool:
        return bool(every) and self.state.step % int(every or 1) == 0

    def _checkpoint_due(self, saved: float) -> bool:
        if self._finished():
            return False  # the end of the stage saves
        return self._due(self.plan.checkpoint_steps) or self._minutes_over(saved)

    def _minutes_over(self, saved: float) -> bool:
        """Whether it is time for a checkpoint; the main process decides for all."""
        over = time.monotonic() - saved >= 60 * self.plan.checkpoint_minutes
        accelerator = self.stepper.accelerator
        if accelerator.num_processes == 1:
            return over
        flag = torch.tensor([int(over and accelerator.is_main_process)], device=self.model.device)
        return bool(accelerator.reduce(flag, reduction="sum"))

    def _emit(self, kind: str, **values: Any) -> None:
        self.emit(RunEvent(kind, str(self.folder.path), self.plan.number, self.state.step, values))


def load_weights(model: Trainable, checkpoint: Checkpoint, wanted: Collection[str] | None = None) -> None:
    """Put a checkpoint's weights into the parameters of the same names; `wanted` as in `check_fits`."""
    parameters = dict(model.named_parameters())
    check_fits(checkpoint, parameters, wanted)
    with torch.no_grad():
        for name, tensor in checkpoint.weights.items():
            parameters[name].copy_(tensor)


def step_seed(seed: int, stage: int, step: int, process: int) -> int:
    """The seed of all randomness in one step of one process."""
    digest = hashlib.sha256(f"{seed}/{stage}/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

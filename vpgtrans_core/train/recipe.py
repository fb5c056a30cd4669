"""From a stage's description to its steps, learning rates and optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import Machine
from vpgtrans_core.recipes.holding import FLOAT8
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.settings import Settings
from vpgtrans_core.train import optim
from vpgtrans_core.train.stage import StagePlan
from vpgtrans_core.vlm.model import VLModel

LOOKS_AN_EPOCH = 4
"""Measurements of the held-out loss per epoch at most, unless the settings say otherwise."""
LOOKED_AT = 1 / 3
"""Captions that a measurement reads over those that were trained on since the one before, at most. It computes no
gradient: a third of the captions is a sixth of the work."""
COMPILED_FROM = 1e16
"""An LLM's parameters times the captions that a process trains on, from which compiling, which takes a minute, is worth
it: about half an hour on an H100."""


def stage_plan(settings: Settings, stage: Stage, steps_per_epoch: int, held_out_steps: float = 0.0) -> StagePlan:
    """The plan of `stage`.

    Args:
        steps_per_epoch: of the stage's data.
        held_out_steps: how many steps have as many captions as are held out.
    """
    steps = stage.steps_for(steps_per_epoch)
    return StagePlan(
        stage=stage,
        steps=steps,
        factor=stage_factor(stage, steps),
        clip_norm=settings.clip_norm,
        validate_every=settings.validate_every or steps_between_looks(min(steps, steps_per_epoch), held_out_steps),
        seed=settings.seed,
        checkpoint_minutes=settings.checkpoint_minutes,
        checkpoint_steps=settings.checkpoint_steps,
        keep_checkpoints=settings.keep_checkpoints,
    )


def steps_between_looks(steps: int, held_out_steps: float) -> int:
    """Steps between two measurements of the held-out loss: `LOOKS_AN_EPOCH` in `steps`, or fewer, so that measuring is
    never most of the work."""
    return max(1, steps // LOOKS_AN_EPOCH, math.ceil(held_out_steps / LOOKED_AT))


def stage_factor(stage: Stage, steps: int) -> Callable[[int], float]:
    """The share of the peak learning rate at each of the stage's `steps`."""
    if stage.schedule == "constant":
        return optim.constant
    if stage.schedule == "muon":
        return lambda step: optim.muon_schedule(step, steps)
    rise = min(stage.lr_warmup_steps, int(stage.lr_warmup_share * steps))
    return lambda step: (
        optim.linear_warmup_cosine(step, steps, stage.lr, stage.min_lr, rise, stage.lr_warmup_start) / stage.lr
    )


def stage_optimizer(settings: Settings, stage: Stage, model: VLModel) -> torch.optim.Optimizer:
    """The optimiser of the stage's trainable parameters; call `model.train_only` first."""
    if stage.optimizer == "muon":
        own = {id(parameter) for parameter in model.projector.parameters()}
        others = [(name, p) for name, p in model.trained().items() if id(p) not in own]
        return optim.muon(model.projector, stage.lr, others=others, weight_decay=settings.weight_decay)
    return optim.adamw(model.trained().items(), stage.lr, settings.weight_decay)


def compiles(settings: Settings, machine: Machine, llm: LLM, captions: float) -> bool:
    """Whether to compile the LLM: as set, else on a GPU if its family gains from it and the run is long.

    Args:
        captions: how many the run trains on, over all processes.
    """
    if settings.compile is not None:
        return settings.compile
    long = captions / machine.accelerator.num_processes * llm.model.num_parameters() >= COMPILED_FROM
    plain = settings.quantization in ("none", FLOAT8) and not settings.checkpoint_activations and settings.place is None
    plain &= not settings.shard
    return long and plain and machine.device.type == "cuda" and llm.family.compiles

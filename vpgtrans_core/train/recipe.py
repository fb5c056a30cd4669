"""From settings to what a stage does: its steps, rates and optimiser (method.md's table is the paper's)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import Machine
from vpgtrans_core.settings import Settings
from vpgtrans_core.train import optim
from vpgtrans_core.train.stage import StagePlan
from vpgtrans_core.vlm.model import VLModel

LOOKS_AN_EPOCH = 4
"""Held-out losses an epoch, where the settings do not say."""
WARMUP_SHARE = 0.1
"""The rise of the rate takes at most this share of the stage, however short it is."""
COMPILED_FROM = 1e16
"""An LLM's parameters times the captions that a process trains on, half an hour of an H100, from which it is worth the
minute that compiling takes."""


def stage_plan(settings: Settings, number: int, steps_per_epoch: int) -> StagePlan:
    """What stage `number` does over epochs of `steps_per_epoch` steps."""
    steps = stage_steps(settings, number, steps_per_epoch)
    return StagePlan(
        number=number,
        steps=steps,
        factor=stage_factor(settings, number, steps),
        clip_norm=settings.clip_norm,
        validate_every=settings.validate_every or max(1, min(steps, steps_per_epoch) // LOOKS_AN_EPOCH),
        early_stop=settings.early_stop and number == 1,
        seed=settings.seed,
        checkpoint_minutes=settings.checkpoint_minutes,
        checkpoint_steps=settings.checkpoint_steps,
        keep_checkpoints=settings.keep_checkpoints,
    )


def stage_steps(settings: Settings, number: int, steps_per_epoch: int) -> int:
    """Steps of a stage: as given, or by its epochs."""
    given, epochs = (
        (settings.stage1_steps, settings.stage1_epochs)
        if number == 1
        else (settings.stage2_steps, settings.stage2_epochs)
    )
    return given if given is not None else round((epochs or 0) * steps_per_epoch)


def compiles(settings: Settings, machine: Machine, llm: LLM, steps_per_epoch: int) -> bool:
    """Whether the LLM is compiled: as the settings say, else on a GPU where its family gains and the run is long."""
    if settings.compile is not None:
        return settings.compile
    steps = sum(stage_steps(settings, number, steps_per_epoch) for number in settings.stages or ())
    captions = steps * (settings.batch_size or 1) / machine.accelerator.num_processes
    long = captions * llm.model.num_parameters() >= COMPILED_FROM
    plain = settings.quantization == "none" and not settings.checkpoint_activations
    return long and plain and machine.device.type == "cuda" and llm.family.compiles


def stage_factor(settings: Settings, number: int, steps: int) -> Callable[[int], float]:
    """The share of the peak rate at a step: constant in stage 1 (or Muon's own), linear rise and cosine in stage 2."""
    if number == 1:
        if settings.stage1_optimizer == "muon":
            return lambda step: optim.muon_schedule(step, steps)
        return optim.constant
    peak, minimum = settings.stage2_lr or 0.0, settings.stage2_min_lr or 0.0
    rise = min(settings.warmup_steps or 0, int(WARMUP_SHARE * steps))
    return lambda step: (
        optim.linear_warmup_cosine(step, steps, peak, minimum, rise, settings.warmup_lr or 0.0) / peak if peak else 0.0
    )


def stage_optimizer(settings: Settings, number: int, model: VLModel) -> torch.optim.Optimizer:
    """The optimiser of what stage `number` trains; the model's stage must be set."""
    if number == 1 and settings.stage1_optimizer == "muon":
        return optim.muon(model.projector, settings.stage1_lr or 0.0)
    rate = settings.stage1_lr if number == 1 else settings.stage2_lr
    return optim.adamw(model.trained().items(), rate or 0.0, settings.weight_decay)

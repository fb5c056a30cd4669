"""What run.json says of a run: when it begins, and of each stage when it ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from vpgtrans_core import __version__
from vpgtrans_core.machine import Machine
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.run.finish import identity
from vpgtrans_core.run.folder import RunFolder, environment, now
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.train.stage import StageState, peak_memory_bytes
from vpgtrans_core.vlm.model import VLModel


def first_record(
    spec: RunSpec, folder: RunFolder, machine: Machine, model: VLModel, data: TrainingData, compiled: bool
) -> dict[str, Any]:
    """All that is known before the first step; what an earlier part of the run recorded in `folder` is kept."""
    record = folder.record
    return {
        "vpgt": __version__,
        "status": "running",
        "started": record.get("started", now()),
        "resumed": [*record.get("resumed", []), now()] if spec.settings.resume else record.get("resumed", []),
        "settings": dataclasses.asdict(spec.settings),
        "source": identity(spec.source),
        "target": identity(spec.target),
        "data": data.describe(),
        "machine": {
            "device": str(machine.device),
            "processes": machine.accelerator.num_processes,
            "dtype": str(machine.dtype),
            "shares_prefix": model.llm.shares_prefix,
            "compiled": compiled,
        },
        "environment": environment(),
        "plugins": spec.registry.snapshot(),
    }


def stage_record(stage: Stage, state: StageState, seconds: float, device: torch.device) -> dict[str, Any]:
    """What a finished stage did; `seconds` on the clock."""
    return {
        "name": stage.name,
        "trains": stage.trains,
        "steps": state.step,
        "images": state.images,
        "captions": state.captions,
        "seconds": round(state.seconds, 2),
        "wall_seconds": round(seconds, 2),
        "bad_steps": state.bad_steps,
        "first_held_out_loss": state.first_held_out_loss,
        "held_out_loss": state.held_out_loss,
        "ended_early": state.stopped,
        "peak_memory_bytes": peak_memory_bytes(device),
    }

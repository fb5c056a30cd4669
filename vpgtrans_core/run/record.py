"""The contents of run.json: of the run when it starts, and of each stage when it ends."""

from __future__ import annotations

from typing import Any

import torch

from vpgtrans_core import __version__
from vpgtrans_core.machine import Machine
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.run.finish import identity
from vpgtrans_core.run.folder import RUNNING, RunFolder, environment, now
from vpgtrans_core.run.needed import needed_plugins
from vpgtrans_core.run.resuming import recordable
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.train.stage import StageState, peak_memory_bytes
from vpgtrans_core.vlm.model import VLModel


def begun_record(spec: RunSpec) -> dict[str, Any]:
    """The record before anything is loaded: enough to resume the run."""
    places = {"source": spec.source, "target": spec.target}
    folders = {name: model.folder if model.origin == "folder" else None for name, model in places.items()}
    return {"vpgt": __version__, "settings": recordable(spec.settings, **folders)}


def models_record(spec: RunSpec) -> dict[str, Any]:
    """The identities of source and target, with the hashes of their files; reads the files."""
    return {"source": identity(spec.source), "target": identity(spec.target)}


def first_record(
    spec: RunSpec,
    folder: RunFolder,
    machine: Machine,
    model: VLModel,
    data: TrainingData,
    models: dict[str, Any],
    compiled: bool,
) -> dict[str, Any]:
    """The record before the first step; it keeps what an earlier part of the run recorded in `folder`."""
    record = folder.record
    return {
        **begun_record(spec),
        "status": RUNNING,
        "started": record.get("started", now()),
        "resumed": [*record.get("resumed", []), now()] if spec.settings.resume else record.get("resumed", []),
        **models,
        "data": data.record(),
        "machine": {
            "device": str(machine.device),
            "processes": machine.accelerator.num_processes,
            "dtype": str(machine.dtype),
            "shares_prefix": model.llm.shares_prefix,
            "compiled": compiled,
            "sharded": machine.mesh is not None,
        },
        "environment": environment(),
        "plugins": spec.registry.snapshot(),
        "needs": needed_plugins(spec.registry, spec.source.plugin, spec.target.plugin, spec.target.family),
        "lora": model.lora and model.lora.describe() | {"merged": spec.settings.save == "model"},
    }


def stage_record(stage: Stage, state: StageState, seconds: float, device: torch.device) -> dict[str, Any]:
    """The record of a finished stage; `seconds` is its wall-clock time."""
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
        "llm_at_chance": state.llm_at_chance,
        "peak_memory_bytes": peak_memory_bytes(device),
    }

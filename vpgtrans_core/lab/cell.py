"""One cell from start to end, in a process of its own: train, score the points, record."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.errors import VpgtError
from vpgtrans_core.files import RECORD, read_json
from vpgtrans_core.lab.folder import DONE, FAILED, LabFolder
from vpgtrans_core.lab.matrix import Cell
from vpgtrans_core.lab.points import KeepPoints, Point, points
from vpgtrans_core.planning.parts import Plan
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import Registry, load_registry
from vpgtrans_core.run.folder import RunFolder
from vpgtrans_core.run.pipeline import Silent, TransferResult, transfer
from vpgtrans_core.settings import Settings, build

if TYPE_CHECKING:
    from vpgtrans_core.cache.key import Kind
    from vpgtrans_core.machine import Machine
    from vpgtrans_core.run.spec import RunSpec
    from vpgtrans_core.vlm.model import VLModel

EVAL_BATCH = 32
LOG = "log.txt"


def run_cell(folder: str, cell: Cell, files: tuple[str, ...] = ()) -> None:
    """Run a cell in this process, which is its own: what it prints goes into its log, and an error into its record.

    The times in the record are those of the last try, from start to end.
    """
    _end_with_parent()
    lab = LabFolder(Path(folder))
    lab.cell(cell.id).mkdir(parents=True, exist_ok=True)
    _print_into(lab.cell(cell.id) / LOG)
    began = time.monotonic()
    try:
        result = work(lab, cell, load_registry(files))
        times = {"wall_seconds": time.monotonic() - began, "cpu_seconds": time.process_time()}
        lab.write_record(cell.id, status=DONE, error="", **result, **{k: round(v, 1) for k, v in times.items()})
    except VpgtError as error:
        if getattr(error, "exit_code", 0) > 128:  # asked to stop: it goes on next time
            sys.exit(error.exit_code)  # type: ignore[attr-defined]
        lab.write_record(cell.id, status=FAILED, error=str(error))
        sys.exit(2)
    except Exception as error:
        lab.write_record(cell.id, status=FAILED, error=f"{type(error).__name__}: {error}")
        raise


def work(lab: LabFolder, cell: Cell, registry: Registry) -> dict[str, Any]:
    """Train (or go on), score every point that has no scores yet, and return what the record gets.

    Raises:
        VpgtError: the run cannot be made; the message says why.
    """
    place = lab.cell(cell.id)
    settings = cell_settings(lab, cell)
    planned = plan(settings, registry=registry, downloads=False)
    every = steps_of_an_epoch(planned)
    settings = replace(settings, checkpoint_steps=every, validate_every=settings.validate_every or every)
    asked = {"source": cell.source, "target": cell.target, "arm": cell.arm, "seed": cell.seed}
    lab.write_record(cell.id, cell=asked, sizes=_sizes(planned), steps_per_epoch=every)
    registry.add(KeepPoints(place / "points"), "lab-points")
    result = _trained(settings, place / "run", registry)
    kept = points(place / "points", every, ends_only=cell.points == "end")
    if cell.tasks:
        _score(lab, cell, settings, kept, registry)
    shutil.rmtree(place / "points", ignore_errors=True)
    return _measured(result, place / "run")


def cell_settings(lab: LabFolder, cell: Cell) -> Settings:
    """The settings of a cell's run with all places filled in."""
    values: dict[str, Any] = {"cache": str(lab.path / "cache"), **cell.settings, "target": cell.target}
    values["source"] = str(lab.cell(cell.needs) / "run") if cell.needs else cell.source
    values["out"] = str(lab.cell(cell.id) / "run")
    if cell.pictures:
        values["data"] = (str(lab.pictures(cell.pictures) / "captions.json"),)
    return build(values)


def steps_of_an_epoch(planned: Plan) -> int:
    """Steps of one epoch of the run's data; 1 where no stage has a length in epochs."""
    lengths = [round(s.steps / s.epochs) for s in planned.stages if s.steps and s.epochs]
    return max(1, lengths[0]) if lengths else 1


def _trained(settings: Settings, out: Path, registry: Registry) -> TransferResult:
    """Train; go on where an earlier try stopped."""
    begun = (out / RECORD).is_file() and "settings" in read_json(out / RECORD)
    if begun:
        return transfer(Settings(out=str(out), resume=True), reporter=Log(), registry=registry)
    return transfer(replace(settings, overwrite=True), reporter=Log(), registry=registry)


def _score(lab: LabFolder, cell: Cell, settings: Settings, kept: list[Point], registry: Registry) -> None:
    """Score the points, one after the other; each goes into the record at once."""
    import torch
    from safetensors.torch import load_file

    from vpgtrans_core.evaluation.encoding import image_encoder
    from vpgtrans_core.lab.scoring import open_tasks, prompts_and_words, score_tasks
    from vpgtrans_core.machine import choose_machine
    from vpgtrans_core.run.spec import run_spec
    from vpgtrans_core.train.checkpoint import Checkpoint
    from vpgtrans_core.train.stage import load_weights

    spec = run_spec(settings, registry)
    tasks = open_tasks(cell.tasks, spec.target.family.question_prompt, registry)
    machine = choose_machine(spec.settings, spec.target.family.half)
    model = _model(spec, machine)
    images = len({sample.image.name for task in tasks for sample in task.samples})
    keep: Kind = "features" if any(stage.trains_vpg for stage in spec.stages) else "outputs"
    scored = {(p["stage"], p["step"]): p for p in lab.record(cell.id).get("points", [])}
    rows = RunFolder(lab.cell(cell.id) / "run").metrics()
    with (
        torch.no_grad(),
        image_encoder(model, EVAL_BATCH, machine.dtype, settings, images=images, keep=keep, say=print) as encoder,
    ):
        for point in kept:
            if (point.stage, point.step) in scored:
                continue
            load_weights(model, Checkpoint(load_file(point.weights), {}, {"stage": point.stage, "step": point.step}))
            model.requires_grad_(False)
            model.eval()
            began = time.monotonic()
            scores = score_tasks(model, tasks, cell.generate, EVAL_BATCH, encoder)
            held = [r["held_out_loss"] for r in rows if "held_out_loss" in r
                    and (r["stage"], r["step"]) == (point.stage, point.step)]  # fmt: skip
            row = {name: value for name, value in vars(point).items() if name != "weights"}
            row |= {"held_out_loss": held[-1] if held else None, "scores": scores}
            scored[point.stage, point.step] = row | {"scoring_seconds": round(time.monotonic() - began, 2)}
            lab.write_record(cell.id, points=list(scored.values()))
        words = prompts_and_words(model, tasks, encoder) if kept else {}
    lab.write_record(cell.id, prompts=words)


def _model(spec: RunSpec, machine: Machine) -> VLModel:
    """The model as training assembled it, so that the weights of its checkpoints fit."""
    from vpgtrans_core.vlm.assemble import blank_projector, load_llm, load_vpg, stage_lora, vpg_source
    from vpgtrans_core.vlm.model import VLModel

    vpg = load_vpg(vpg_source(spec.source, spec.settings, spec.registry), machine, lazily=True)
    llm = load_llm(spec.target, machine, spec.settings)
    projector = blank_projector(vpg.output_size, llm.embedding_size, has_bias=vpg.projector_bias)
    lora = stage_lora(llm, spec.settings, spec.stages)
    return VLModel(vpg, projector, llm, lora=lora).to(machine.device)


def _measured(result: TransferResult, run: Path) -> dict[str, Any]:
    """What the run says of itself that the report needs."""
    stages = result.record.get("stages", {})
    held = [{k: row[k] for k in ("stage", "step", "held_out_loss")} for row in RunFolder(run).metrics()
            if "held_out_loss" in row]  # fmt: skip
    total = {name: sum(s[name] for s in stages.values()) for name in ("steps", "images", "captions", "seconds")}
    first: dict[str, Any] = next(iter(stages.values()), {})
    return {
        "start": result.record.get("start", {}),
        "first_held_out_loss": first.get("first_held_out_loss"),
        "held_out": held,
        "cost": total | {"peak_memory_bytes": max((s["peak_memory_bytes"] for s in stages.values()), default=0)},
        "bad_steps": sum(s["bad_steps"] for s in stages.values()),
        "machine": result.record.get("machine", {}),
    }


def _sizes(planned: Plan) -> dict[str, Any]:
    source = planned.source_llm
    return {
        "source_llm": source.shape.parameters if source else None,
        "source_family": source.family if source else None,
        "target_llm": planned.target.shape.parameters,
        "target_family": planned.target.family,
    }


class Log(Silent):
    """A reporter that prints messages and warnings only."""

    def message(self, text: str) -> None:
        print(text, flush=True)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", flush=True)


def _print_into(path: Path) -> None:
    """Send whatever this process prints, its libraries included, to the end of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with_parent() -> None:
    """Stop, with a checkpoint, when the laboratory's process is gone: nobody would wait for this one."""
    parent = parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()

"""Points of a run at which tasks are scored: the weights of its checkpoints, kept until they have scores. No torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.files import read_json, write_json
from vpgtrans_core.hookspecs import hookimpl

_WEIGHTS, _STATE = "weights.safetensors", "state.json"


@dataclass(frozen=True)
class Point:
    """Where a run was: its stage and step, and what it had cost by then, over all stages."""

    stage: int
    step: int
    steps: int
    images: int
    captions: int
    seconds: float
    weights: Path


class KeepPoints:
    """Watches a run and keeps the weights of every checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @hookimpl
    def vpgt_run_event(self, event: RunEvent) -> None:
        if event.kind == "checkpoint":
            self.keep(Path(event.values["path"]))

    def keep(self, checkpoint: Path) -> None:
        """Link the weights (a checkpoint is removed later), and note the progress."""
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self.folder / f"{checkpoint.name}.safetensors"
        weights.unlink(missing_ok=True)
        try:
            os.link(checkpoint / _WEIGHTS, weights)
        except OSError:  # a file system without links
            shutil.copy(checkpoint / _WEIGHTS, weights)
        state = read_json(checkpoint / _STATE)
        kept = {"stage": state["stage"], "step": state["step"], "progress": state["progress"]}
        write_json(self.folder / f"{checkpoint.name}.json", kept)


def points(folder: Path, every: int, *, ends_only: bool = False) -> list[Point]:
    """The kept points in order: each `every` steps of a stage, and its end (`ends_only`: the run's end alone)."""
    states = [(read_json(path), path) for path in sorted(folder.glob("stage*.json"))]
    last = {state["stage"]: state["step"] for state, _ in states}
    found: list[Point] = []
    before: dict[str, Any] = {"steps": 0, "images": 0, "captions": 0, "seconds": 0.0}
    for state, path in states:
        done, end = state["progress"], state["step"] == last[state["stage"]]
        total = {"steps": before["steps"] + state["step"]}
        total |= {name: before[name] + done[name] for name in ("images", "captions", "seconds")}
        if end or state["step"] % every == 0:
            found.append(Point(state["stage"], state["step"], **total, weights=path.with_suffix(".safetensors")))
        before = total if end else before
    return found[-1:] if ends_only else found

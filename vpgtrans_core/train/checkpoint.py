"""Checkpoints that survive a kill at any moment.

A checkpoint is a folder. It is written under a temporary name, every file is fsynced, and a manifest with each file's
SHA-256 is written last. Then the folder is renamed in one step and its parent fsynced; only after that are older
checkpoints removed. A folder whose manifest is missing or does not match its files does not count. It holds the trained
parameters, the optimiser's state and the position in the data; the random state of a step is a function of (seed,
stage, step) and is not saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from vpgtrans_core.errors import ModelError, VpgtError
from vpgtrans_core.files import REPLACED, fsync, put_in_place, read_json, remove, write_synced, writing

log = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
MANIFEST = "manifest.json"
FORMAT = 1
CHANGED = "remove this checkpoint, so that --resume continues from an older one, or start again with --overwrite"
"""Advice where a checkpoint agrees with its manifest, but not with what vpgt writes."""
_NAME = re.compile(r"stage(\d+)-(\d{8,})$")
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: named tensors of the trained parameters and of the optimiser, and plain values."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def stage(self) -> int:
        return int(self.state["stage"])

    @property
    def step(self) -> int:
        """Steps of the stage that are done."""
        return int(self.state["step"])


def save_checkpoint(root: Path, checkpoint: Checkpoint, keep: int = 1) -> Path:
    """Write `checkpoint` below `root` and remove all but the newest `keep` (at least one); return its folder.

    Raises:
        DiskFull: the disk has no room for it; earlier checkpoints are unchanged.
        OSError: it cannot be written for another reason; earlier checkpoints are unchanged.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"stage{checkpoint.stage}-{checkpoint.step:08d}"
    temporary = root / f"{_TEMPORARY}{final.name}"
    files = {
        WEIGHTS: save(_contiguous(checkpoint.weights), metadata={"format": "pt"}),
        OPTIMIZER: save(_contiguous(checkpoint.optimizer), metadata={"format": "pt"}),
        STATE: json.dumps({"format": FORMAT, **checkpoint.state}, indent=1).encode(),
    }
    try:
        with writing("a checkpoint", root, sum(map(len, files.values())), run=root.parent):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            manifest = {}
            for name, content in files.items():
                write_synced(temporary / name, content)
                manifest[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            write_synced(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
            fsync(temporary)
            put_in_place(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _folders(root)[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(root: Path, say: Callable[[str], None] = log.warning) -> Checkpoint | None:
    """Load the newest undamaged checkpoint below `root`; None if none was saved yet.

    Args:
        root: the folder of the checkpoints.
        say: called with a message for each damaged checkpoint that is skipped.

    Raises:
        ModelError: there are checkpoints, but all are damaged.
    """
    recover(root)
    damaged: list[str] = []
    for folder in reversed(_folders(root)):
        if (cause := damage(folder)) is None:
            for earlier in damaged:
                say(f"the checkpoint {earlier}; continuing from {folder.name}")
            return load_checkpoint(folder)
        damaged.append(f"{folder} is damaged: {cause}")
    if damaged:
        listed = "\n".join(f"  - {text}" for text in damaged)
        raise ModelError(
            f"every checkpoint in {root} is damaged, so the run cannot be continued:\n{listed}",
            f"restore a copy of one; to start again at the first step, remove {root} and resume, or use --overwrite",
        )
    return None


def recover(root: Path) -> None:
    """Rename complete checkpoints that a kill left under a temporary name, and remove incomplete ones."""
    for mark in (_TEMPORARY, REPLACED):
        for leftover in root.glob(f"{mark}*"):
            final = root / leftover.name.removeprefix(mark)
            if not final.exists() and damage(leftover) is None:
                leftover.rename(final)
            else:
                remove(leftover)


def has_checkpoint(root: Path) -> bool:
    """Whether there is a folder that may be a checkpoint, damaged or not."""
    return bool(_folders(root)) or any(root.glob(f".*/{MANIFEST}"))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Check and load one checkpoint folder.

    Raises:
        ModelError: the folder is damaged; the message says how.
    """
    if (cause := damage(folder)) is not None:
        raise ModelError(
            f"the checkpoint {folder} is damaged: {cause}", "--resume uses the newest one that is not damaged"
        )
    state = json.loads((folder / STATE).read_text())
    return Checkpoint(load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER), state)


def damage(folder: Path) -> str | None:
    """The damage of a checkpoint folder in words, or None if its files match its manifest."""
    try:
        manifest = read_json(folder / MANIFEST)
    except VpgtError as error:
        return f"no readable manifest ({error.message})"
    for name in (WEIGHTS, OPTIMIZER, STATE):
        entry = manifest.get(name)
        if not isinstance(entry, dict):
            return f"its manifest does not name {name}"
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
            return f"{name} does not match its SHA-256"
    return _misstated(folder)


def _misstated(folder: Path) -> str | None:
    """What is wrong with the state of a checkpoint, or None."""
    try:
        state = read_json(folder / STATE)
    except VpgtError as error:
        return error.message
    if state.get("format") != FORMAT:
        return f"it has the format {state.get('format')!r}, not {FORMAT}"
    if any(isinstance(value := state.get(name), bool) or not isinstance(value, int) for name in ("stage", "step")):
        return f"{STATE} does not name its stage and step"
    named = _NAME.search(folder.name)
    if named and (state["stage"], state["step"]) != (int(named[1]), int(named[2])):
        return f"{STATE} names stage {state['stage']} step {state['step']}"
    return None


def check_fits(checkpoint: Checkpoint, parameters: Mapping[str, Tensor], wanted: Collection[str] | None = None) -> None:
    """Compare a checkpoint's weights with the model's parameters.

    Args:
        wanted: the parameters that it must hold, those and no others, in their own precision; None for any.

    Raises:
        ModelError: a name is unknown or missing, a shape or precision differs, or a value is not finite; all are
            listed.
    """
    problems = [f"it has no {name}" for name in wanted or () if name not in checkpoint.weights]
    for name, tensor in checkpoint.weights.items():
        if name not in parameters:
            problems.append(f"the model has no parameter {name}")
        elif wanted is not None and name not in wanted:
            problems.append(f"the run does not train {name}")
        elif parameters[name].shape != tensor.shape:
            problems.append(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(parameters[name].shape)}")
        elif wanted is not None and parameters[name].dtype != tensor.dtype:
            problems.append(f"{name} is {tensor.dtype}, not {parameters[name].dtype}")
        elif not bool(tensor.isfinite().all()):
            problems.append(f"{name} has values that are not finite")
    if problems:
        raise ModelError(
            f"the checkpoint of stage {checkpoint.stage} step {checkpoint.step} does not fit the model: "
            + "; ".join(problems[:8]),
            f"resume with the models that the run started with; or {CHANGED}",
        )


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders in the order of training."""
    named = [(match, path) for path in root.glob("stage*") if (match := _NAME.match(path.name)) and path.is_dir()]
    return [path for match, path in sorted(named, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

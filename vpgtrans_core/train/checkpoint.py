"""Checkpoints that a kill at any moment cannot lose.

A checkpoint is a folder: it is written under a temporary name, every file is fsynced, a manifest with each file's
SHA-256 is written last, the folder is renamed into place and its parent fsynced. A folder without a manifest that
agrees with its files does not count. What the run has trained so far is in it, with the optimiser's state and the
position in the data; the random state of a step is a function of (seed, stage, step) and needs no saving.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import fsync, write_synced

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"^stage(\d+)-(\d{8})$")
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: named tensors of the trained parameters and of the optimiser, and a plain state."""

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
        OSError: for instance a full disk; the earlier checkpoints are untouched then.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"stage{checkpoint.stage}-{checkpoint.step:08d}"
    temporary = root / f"{_TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files = {
            "weights.safetensors": save(_contiguous(checkpoint.weights), metadata={"format": "pt"}),
            "optimizer.safetensors": save(_contiguous(checkpoint.optimizer), metadata={"format": "pt"}),
            "state.json": json.dumps({"format": FORMAT, **checkpoint.state}, indent=1).encode(),
        }
        manifest = {}
        for name, content in files.items():
            write_synced(temporary / name, content)
            manifest[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_synced(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        fsync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _folders(root)[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """Load the newest valid checkpoint below `root`; sweep what a kill left half written.

    Returns None when there is none. A folder whose manifest is missing or does not agree with its files is passed over
    for the next older one.
    """
    for leftover in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in reversed(_folders(root)):
        if damage(folder) is None:
            return load_checkpoint(folder)
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load one checkpoint folder after checking it.

    Raises:
        ModelError: the folder is damaged, says how.
    """
    if (cause := damage(folder)) is not None:
        raise ModelError(
            f"the checkpoint {folder} is damaged: {cause}", "an older one may be whole; resume looks for it"
        )
    state = json.loads((folder / "state.json").read_text())
    return Checkpoint(load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors"), state)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None when its files are what its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"no readable manifest ({error})"
    for name, entry in manifest.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            return f"{name} cannot be read ({error})"
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return f"{name} is not what was written"
    return None


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders in the order of training."""
    found = {path: match for path in root.glob("stage*") if path.is_dir() and (match := _NAME.match(path.name))}
    return sorted(found, key=lambda path: tuple(map(int, found[path].groups())))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

"""The folder of a run: what it records while it runs, and how the finished model gets into it.

DIR/run.json        every setting, versions, data, identities, time and memory of each stage; status
DIR/metrics.jsonl   one line a step and a held-out loss
DIR/checkpoints/    only while training
DIR/...             the model folder, put here in one go at the end
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.errors import ConfigError, VpgtError
from vpgtrans_core.files import fsync, write_synced
from vpgtrans_core.train.signals import Interrupted

if TYPE_CHECKING:
    from vpgtrans_core.machine import Machine
    from vpgtrans_core.settings import Settings

RECORD = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
_STAGING = ".finished"
_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "pillow", "numpy", "pluggy")


class RunFolder:
    """A run's output folder. Only the main process writes; the others hold one with ``writes=False``."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.record: dict[str, Any] = {}

    @classmethod
    def create(cls, path: Path, *, overwrite: bool, writes: bool = True) -> RunFolder:
        """Make a new run's folder.

        Raises:
            ConfigError: it exists and holds something (and `overwrite` is off), or it cannot be written.
        """
        folder = cls(path, writes=writes)
        if not writes:
            return folder
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                folder._make_room(overwrite)
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                [f"cannot write to the output folder {path}: {error.strerror or error}"], "choose another --out"
            ) from error
        return folder

    @classmethod
    def reopen(cls, path: Path, *, writes: bool = True) -> RunFolder:
        """Open the folder of a run that was stopped, to resume it.

        Raises:
            ConfigError: there is no run in it.
        """
        folder = cls(path, writes=writes)
        try:
            folder.record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                [f"there is no run to resume in {path} ({error})"],
                "name the run's folder with --out, or leave --resume out",
            ) from error
        return folder

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def write_record(self, **values: Any) -> None:
        """Add `values` to run.json and replace the file in one step."""
        self.record.update(values)
        if not self.writes:
            return
        temporary = self.path / f".{RECORD}"
        write_synced(temporary, (json.dumps(self.record, indent=2, default=str) + "\n").encode())
        temporary.rename(self.path / RECORD)

    def metrics_size(self) -> int:
        """Bytes of metrics so far; a checkpoint keeps the number."""
        path = self.path / METRICS
        return path.stat().st_size if path.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Forget the metrics of steps that a resumed run repeats."""
        path = self.path / METRICS
        if self.writes and path.exists():
            os.truncate(path, min(size, path.stat().st_size))

    def add_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        if self.writes:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.path / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def staging(self) -> Path:
        """An empty folder, on the same file system, in which the finished model is written."""
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        return staging

    def publish(self, staging: Path) -> None:
        """Move the finished model's files into the run's folder, config.json last: a folder that has it is whole."""
        for path in sorted(staging.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        for path in sorted(staging.iterdir(), key=lambda p: (p.name == "config.json", p.name)):
            final = self.path / path.name
            if final.is_dir():
                shutil.rmtree(final)
            path.rename(final)
        staging.rmdir()
        fsync(self.path)

    def remove_checkpoints(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _make_room(self, overwrite: bool) -> None:
        """Empty a folder that an earlier run filled; refuse to touch anything else."""
        if not overwrite:
            raise ConfigError(
                [f"the output folder {self.path} already exists and is not empty"],
                "choose another --out, continue the run with --resume, or replace it with --overwrite",
            )
        if not self.path.is_dir() or not (self.path / RECORD).is_file():
            raise ConfigError(
                [f"{self.path} is not the folder of an earlier run; --overwrite does not remove it"],
                "choose another --out",
            )
        shutil.rmtree(self.path)


def open_folder(path: Path, settings: Settings, machine: Machine) -> RunFolder:
    """The run's folder at `path`: a new one, or the one to resume in. Every process returns when it is there.

    Raises:
        ConfigError: see `RunFolder.create` and `RunFolder.reopen`.
    """
    if settings.resume:
        folder = RunFolder.reopen(path, writes=machine.is_main)
    else:
        folder = RunFolder.create(path, overwrite=settings.overwrite, writes=machine.is_main)
    machine.accelerator.wait_for_everyone()
    return folder


def environment() -> dict[str, Any]:
    """Versions of Python and the libraries that a result depends on."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "platform": platform.platform(), "libraries": versions}


def now() -> str:
    """The time of day in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def fail(folder: RunFolder, error: BaseException) -> None:
    """Write into the record how a run ended, when it did not end well."""
    stopped = isinstance(error, KeyboardInterrupt | Interrupted)
    cause = error.message if isinstance(error, VpgtError) else f"{type(error).__name__}: {error}"
    folder.write_record(status="interrupted" if stopped else "failed", cause=cause, ended=now())

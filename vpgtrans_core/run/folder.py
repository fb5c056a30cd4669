"""The folder of a run: its record, its metrics, its checkpoints and the finished model.

DIR/run.json        every setting, versions, data, identities, time and memory of each stage; status
DIR/metrics.jsonl   one line for each step and for each held-out loss
DIR/samples.html    what the model says of a few pictures at each validation
DIR/checkpoints/    only during training
DIR/.lock           only while a run uses the folder (see `lock`)
DIR/...             the model folder, moved here in one step at the end
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vpgtrans_core.errors import ConfigError, ModelError, VpgtError
from vpgtrans_core.files import RECORD, fsync, read_json, remove, write_synced, writing
from vpgtrans_core.processes.shared import TOKEN, check_folder
from vpgtrans_core.run.lock import LOCK, FolderLock
from vpgtrans_core.run.shapes import RecordShape
from vpgtrans_core.train.signals import Interrupted
from vpgtrans_core.validation import misfits

if TYPE_CHECKING:
    from vpgtrans_core.machine import Machine
    from vpgtrans_core.settings import Settings

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SAMPLES = "samples.html"
LOGS = "tensorboard"
STARTING, RUNNING, DONE = "starting", "running", "done"
"""A run's status in the record: nothing is loaded yet, at work, finished."""
_STAGING = ".finished"
_PROBE = ".writable"
_OWN = frozenset({RECORD, f".{RECORD}", METRICS, CHECKPOINTS, SAMPLES, LOGS, LOCK, _STAGING, _PROBE})
"""A run's files in its folder, besides those of its model."""
MOST_STEPS = 10**12
"""Larger numbers of a step are none."""
SHOWN = 8
"""Most wrong values of a record that are named."""
_REPLACING = "replacing"
"""In the record while the files of an earlier run are removed."""
_LIBRARIES = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "pillow", "numpy", "pluggy")


class RunFolder:
    """A run's output folder. Only the main process writes; the others use ``writes=False``."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.record: dict[str, Any] = {}
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, path: Path, *, overwrite: bool, writes: bool = True, begun: dict[str, Any] | None = None) -> Self:
        """Make a new run's folder and write the record `begun` into it.

        A folder is reused if an earlier run left nothing worth keeping in it. The run can be resumed from its first
        record on.

        Raises:
            ConfigError: the folder is not empty (and `overwrite` is off), it cannot be written, or another run uses it.
            DiskFull: there is no room for the record.
        """
        folder = cls(path, writes=writes)
        if not writes:
            return folder
        begun = {"status": STARTING, "started": now(), **(begun or {})}
        with folder._closed_after_an_error():
            folder._check_owned(overwrite)
            path.mkdir(parents=True, exist_ok=True)
            folder._lock = FolderLock.take(path)
            folder._make_room(overwrite, begun)
            probe = path / _PROBE
            probe.write_bytes(b"")
            probe.unlink()
            folder.write_record(**begun)
        return folder

    @classmethod
    def reopen(cls, path: Path, *, writes: bool = True) -> Self:
        """Open the folder of a stopped run, to resume it.

        Raises:
            ConfigError: it is not the folder of a run, or another run uses it.
        """
        folder = cls(path, writes=writes)
        folder.record = read_record(path)
        if writes:
            with folder._closed_after_an_error():
                folder._take_over()
        return folder

    def _take_over(self) -> None:
        from vpgtrans_core.train.checkpoint import recover

        self._lock = FolderLock.take(self.path)
        self.record = read_record(self.path)
        if self.record.pop(_REPLACING, False):
            self._clear()
        recover(self.checkpoints)

    @contextlib.contextmanager
    def _closed_after_an_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            raise ConfigError(
                [f"cannot write to the output folder {self.path}: {error.strerror or error}"], "choose another --out"
            ) from error
        except VpgtError:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder for other runs."""
        if self._lock is not None:
            self._lock.release()

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def write_record(self, **values: Any) -> None:
        """Add `values` to run.json and replace the file in one step."""
        self.record.update(values)
        if not self.writes:
            return
        temporary = self.path / f".{RECORD}"
        content = (json.dumps(self.record, indent=2, default=str) + "\n").encode()
        try:
            with writing("the run's record", self.path, len(content), run=self.path):
                write_synced(temporary, content)
                temporary.rename(self.path / RECORD)
                fsync(self.path)
        except VpgtError:
            temporary.unlink(missing_ok=True)
            raise

    def metrics_size(self) -> int:
        """Bytes of the metrics so far, for a checkpoint."""
        path = self.path / METRICS
        return path.stat().st_size if path.exists() else 0

    def ends_a_line(self, size: int) -> bool:
        """Whether the metrics have a line's end after so many bytes, or have not so many."""
        path = self.path / METRICS
        if not size or self.metrics_size() < size:
            return True
        with path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) == b"\n"

    def cut_metrics(self, size: int) -> None:
        """Remove the metrics of steps that a resumed run repeats."""
        path = self.path / METRICS
        if self.writes and path.exists():
            os.truncate(path, min(size, path.stat().st_size))

    def add_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        if self.writes:
            line = json.dumps(values) + "\n"
            with (
                writing("a line of the metrics", self.path, len(line), run=self.path),
                (self.path / METRICS).open("a", encoding="utf-8") as file,
            ):
                file.write(line)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. They are only drawn: those that were edited into something else are left out."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        return [line for line in map(_metric, lines) if line is not None]

    def staging(self) -> Path:
        """An empty folder on the same file system, for writing the finished model."""
        staging = self.path / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        return staging

    def publish(self, staging: Path) -> None:
        """Move the finished model's files into the run's folder, config.json last: a folder with it is complete."""
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

    def _check_owned(self, overwrite: bool) -> None:
        """Refuse a folder that no run has made; nothing in it is touched."""
        if self.path.is_symlink() and not self.path.exists():
            raise ConfigError([f"{self.path} is a link to {os.readlink(self.path)}, which is not there"], _OTHER)
        if not self.path.exists() or (self.path.is_dir() and _is_runs(self.path)):
            return
        if not self.path.is_dir():
            raise ConfigError([f"{self.path} is not a folder"], _OTHER)
        if overwrite:
            raise ConfigError(
                [f"{self.path} is not the folder of an earlier run; --overwrite does not remove it"],
                "choose another --out",
            )
        raise ConfigError([_EXISTS.format(self.path)], _EXISTS_HINT)

    def _make_room(self, overwrite: bool, begun: dict[str, Any]) -> None:
        """Empty the folder of an earlier run, if nothing in it is worth keeping or it is to be replaced.

        The new run is recorded first, so that `reopen` can finish after a kill."""
        if not _contents(self.path):
            return
        if not overwrite and not nothing_to_keep(self.path):
            raise ConfigError([_EXISTS.format(self.path)], _EXISTS_HINT)
        self.write_record(**begun, **{_REPLACING: True})
        self.record = {}
        self._clear()

    def _clear(self) -> None:
        """Remove all but the record and the lock."""
        for entry in _contents(self.path):
            if entry.name not in (RECORD, f".{RECORD}"):
                remove(entry)


_OTHER = "choose another --out"
_EXISTS = "the output folder {} already exists and is not empty"
_EXISTS_HINT = "choose another --out, continue the run with --resume, or replace it with --overwrite"


def read_record(path: Path) -> dict[str, Any]:
    """The record of the run in a folder; empty if the run ended before it wrote one.

    Raises:
        ConfigError: it is not the folder of a run, or vpgt did not write its record.
    """
    if not (path / RECORD).is_file():
        if path.exists() and not (path.is_dir() and _is_runs(path)):
            raise ConfigError([f"there is no run to resume in {path}"], "name the run's folder with --out")
        return {}
    try:
        record = read_json(path / RECORD)
    except ModelError as error:
        raise ConfigError(
            [f"the record of the run in {path} cannot be read: {error.message}"],
            "put a copy of run.json back, or replace the run with --overwrite",
        ) from error
    _check_kinds(path / RECORD, record)
    return record


def _check_kinds(path: Path, record: dict[str, Any]) -> None:
    """Refuse a record whose values have wrong types; they may be missing, because the run ended early."""
    if wrong := misfits(RecordShape, record)[:SHOWN]:
        raise ConfigError(
            [f"{path} was changed after vpgt wrote it: {problem}" for problem in wrong],
            "put a copy of it back, or replace the run with --overwrite",
        )


def _metric(line: str) -> dict[str, Any] | None:
    """A line of the metrics: the numbers of a step of a stage; None when it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not all(type(number) in (int, float) for number in values.values()):
        return None
    counts = values.get("stage"), values.get("step")
    return values if all(isinstance(count, int) and 0 <= count <= MOST_STEPS for count in counts) else None


def nothing_to_keep(path: Path) -> bool:
    """Whether a folder is missing, is empty, or holds a run without a checkpoint or model."""
    from vpgtrans_core.train.checkpoint import has_checkpoint

    if not path.exists():
        return True
    if not path.is_dir() or not _names(path) <= _OWN:
        return False
    with contextlib.suppress(ConfigError):
        record = read_record(path)
        return (not record or "status" in record) and not has_checkpoint(path / CHECKPOINTS)
    return False


def _is_runs(path: Path) -> bool:
    """Whether a folder is empty or has been the folder of a run."""
    return (path / RECORD).is_file() or _names(path) <= _OWN


def _names(path: Path) -> set[str]:
    """The names in a folder; what a kill left of `agreement.check_folder` belongs to no one."""
    return {entry.name for entry in path.iterdir() if not entry.name.startswith(TOKEN)}


def _contents(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.name != LOCK]


def open_folder(path: Path, settings: Settings, machine: Machine, begun: dict[str, Any]) -> RunFolder:
    """The run's folder at `path`: a new one, in which `begun` is recorded, or the one to resume. Every process returns
    once it exists.

    Raises:
        ConfigError: see `RunFolder.create`, `RunFolder.reopen` and `check_folder`.
    """
    import torch

    folder, refusal = None, None
    try:
        if settings.resume:
            folder = RunFolder.reopen(path, writes=machine.is_main)
        else:
            folder = RunFolder.create(path, overwrite=settings.overwrite, writes=machine.is_main, begun=begun)
    except VpgtError as error:
        refusal = error
    refused = machine.accelerator.reduce(torch.tensor(int(refusal is not None), device=machine.device), reduction="sum")
    if refusal is not None:
        raise refusal
    assert folder is not None
    if int(refused):
        folder.close()
        raise ConfigError([f"another process cannot use the output folder {path}"], "its own message gives the cause")
    with folder._closed_after_an_error():
        check_folder(machine.accelerator, path)
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


def _fail(folder: RunFolder, error: BaseException) -> None:
    """Record how a run failed or was interrupted."""
    stopped = isinstance(error, KeyboardInterrupt | Interrupted)
    cause = error.message if isinstance(error, VpgtError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(
        OSError, VpgtError
    ):  # a full disk has no room for the record either; the error itself is shown
        folder.write_record(status="interrupted" if stopped else "failed", cause=cause, ended=now())


@contextlib.contextmanager
def recording_failures(folder: RunFolder, emit: Callable[..., None]) -> Iterator[None]:
    """Record and tell how a run failed or was interrupted; let go of its folder in the end.

    Args:
        emit: emits a `RunEvent` of a kind, with more values.
    """
    try:
        yield
    except BaseException as error:
        _fail(folder, error)
        emit("run_failed", cause=str(error))
        raise
    finally:
        folder.close()

"""Run all cells of some experiments, each in a process of its own: one that fails does not stop the others.

A cell that is finished is never run again; one that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from vpgtrans_core.files import writing
from vpgtrans_core.lab.experiment import Experiment
from vpgtrans_core.lab.folder import DONE, FAILED, LabFolder
from vpgtrans_core.lab.matrix import Cell, check_models, distinct
from vpgtrans_core.registry import Registry
from vpgtrans_core.run.lock import FolderLock

PRELOAD = ["torch", "transformers", "vpgtrans_core.lab.cell", "vpgtrans_core.lab.scoring", "vpgtrans_core.run.run"]
"""Imported once, for all cells."""
PICTURE_BYTES = 4096
"""What a drawn picture takes on disk with its captions, about."""
GRACE = 120.0
"""Seconds that cells have to save a checkpoint when the laboratory is stopped."""


@dataclass(frozen=True)
class LabResult:
    """How many cells there are, how many of them are done, and the errors of those that failed."""

    cells: int
    done: int
    failed: dict[str, str]


def run_lab(
    experiments: Sequence[Experiment], out: Path, registry: Registry, *, jobs: int = 1,
    say: Callable[[str], None] = lambda text: None, files: tuple[str, ...] = (),
    draw: Callable[[int, Path], None] | None = None,
) -> LabResult:  # fmt: skip
    """Run every cell that is not finished, `jobs` at once.

    Args:
        out: the laboratory's folder; it may hold finished cells and other experiments.
        say: is told what starts and ends.
        files: single-file plugins that the cells need too.
        draw: writes so many captioned training pictures to a folder, for experiments that ask for ``pictures``.

    Raises:
        VpgtError: a name is not known, the folder holds something else, or another laboratory is at work in it.
    """
    check_models(experiments, registry)
    lab = LabFolder(out)
    lab.check()
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock.take(out)
    try:
        lab.write_experiments(experiments)
        _draw_pictures(lab, experiments, say, draw)
        return _Scheduler(lab, distinct(experiments), jobs, say, files).run()
    finally:
        if lock is not None:
            lock.release()


class _Scheduler:
    """Starts cells when a place is free and their source is trained."""

    def __init__(
        self, lab: LabFolder, cells: dict[str, Cell], jobs: int, say: Callable[[str], None], files: tuple[str, ...]
    ) -> None:
        self.lab, self.cells, self.jobs, self.say, self.files = lab, cells, jobs, say, files
        self.done = [name for name in cells if lab.status(name) == DONE]
        self.failed: dict[str, str] = {}
        self.waiting = [name for name in cells if name not in self.done]
        self.running: dict[str, tuple[BaseProcess, float]] = {}

    def run(self) -> LabResult:
        self.say(f"{len(self.cells)} cells, {len(self.done)} of them finished before")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.jobs)))
        try:
            while self.waiting or self.running:
                self._give_up_on_orphans()
                for name in self._ready():
                    self._start(name, context)
                self._wait()
        finally:
            self._stop()
        return LabResult(len(self.cells), len(self.done), self.failed)

    def _ready(self) -> list[str]:
        free = self.jobs - len(self.running)
        ready = [name for name in self.waiting if not (need := self.cells[name].needs) or need in self.done]
        return ready[: max(free, 0)]

    def _give_up_on_orphans(self) -> None:
        for name in [n for n in self.waiting if self.cells[n].needs in self.failed]:
            self._fail(name, f"its source, the cell {self.cells[name].needs}, failed")
            self.waiting.remove(name)

    def _start(self, name: str, context: multiprocessing.context.BaseContext) -> None:
        self.waiting.remove(name)
        from vpgtrans_core.lab.cell import run_cell

        process = context.Process(  # type: ignore[attr-defined]
            target=run_cell, args=(str(self.lab.path), self.cells[name], self.files), name=name
        )
        process.start()
        self.running[name] = (process, time.monotonic())
        self.say(f"started {name}")

    def _wait(self) -> None:
        """Wait for the next cell that ends."""
        if not self.running:
            return
        wait([process.sentinel for process, _ in self.running.values()])
        for name, (process, began) in list(self.running.items()):
            if process.exitcode is None:
                continue
            del self.running[name]
            self._ended(name, process.exitcode, time.monotonic() - began)

    def _ended(self, name: str, code: int, seconds: float) -> None:
        if self.lab.status(name) == DONE:
            self.done.append(name)
            self.say(f"finished {name} in {seconds:.0f} s ({len(self.done)} of {len(self.cells)})")
            return
        record = self.lab.record(name)
        told = record.get("error") if record.get("status") == FAILED else ""
        self._fail(name, told or f"its process ended with code {code}; see {self.lab.cell(name) / 'log.txt'}")

    def _fail(self, name: str, cause: str) -> None:
        self.failed[name] = cause
        self.lab.write_record(name, status=FAILED, error=cause)
        self.say(f"failed {name}: {cause}")

    def _stop(self) -> None:
        """Ask the cells that are at work to save a checkpoint and end."""
        for process, _ in self.running.values():
            process.terminate()
        until = time.monotonic() + GRACE
        for process, _ in self.running.values():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()


def _draw_pictures(
    lab: LabFolder,
    experiments: Sequence[Experiment],
    say: Callable[[str], None],
    draw: Callable[[int, Path], None] | None,
) -> None:
    """Write the training pictures for the experiments that are trained on drawn ones."""
    for count in sorted({one.pictures for one in experiments if one.pictures}):
        if draw is not None and not (lab.pictures(count) / "captions.json").is_file():
            say(f"drawing {count} pictures")
            with writing("drawn pictures", lab.pictures(count), count * PICTURE_BYTES):
                draw(count, lab.pictures(count))

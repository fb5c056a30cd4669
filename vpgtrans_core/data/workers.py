"""Worker processes that read ahead: started, watched, and started again when they die or hang.

They know nothing of data: they are given plans and a function that reads one.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from vpgtrans_core.errors import DataError

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How often the one who waits looks whether the workers still live."""
RESTARTS = 3
"""How often workers that died or hang are started again for the same step."""

Read = Callable[[int, Any], Any]
"""Reads a step from its number and its plan. Picklable: it travels to the workers."""


def read_in_workers(
    read: Read,
    plan: Callable[[int], Any],
    start: int,
    stop: int,
    *,
    workers: int,
    ahead: int,
    pin: bool,
    timeout: float,
) -> Generator[Any, None, None]:
    """Yield the steps from `start` to `stop` in order, read ahead in workers; start them anew, a few times, from the
    step at which they died or hung.

    Args:
        read: reads one step.
        plan: what a step is read from; called in this process.
        workers: how many processes.
        ahead: steps that each of them reads ahead.
        pin: pin the memory of what is read, for a GPU.
        timeout: seconds without a step after which workers count as hung.

    Raises:
        DataError: the workers were lost again and again. What `read` raises is raised here.
    """
    number, failures = start, 0
    while number < stop:
        try:
            pool = _Pool(read, plan, number, stop, timeout)
            for step in pool.steps(workers, ahead, pin):
                yield step
                number, failures = number + 1, 0
        except _WorkersLost as lost:
            failures += 1
            if failures > RESTARTS:
                raise DataError(
                    f"the data workers failed {failures} times at step {number}: {lost}",
                    "memory (use fewer --workers) or shared memory (/dev/shm) may be too small, or the disk may hang",
                ) from lost
            log.warning("data workers lost at step %d (%s); starting them again", number, lost)


class _WorkersLost(Exception):
    """Worker processes died or hang."""


class _Pool:
    """One set of workers, until the last step or until they are lost."""

    def __init__(self, read: Read, plan: Callable[[int], Any], first: int, stop: int, timeout: float) -> None:
        self.read = read
        self.plans = _Plans(plan, first, stop)
        self.timeout = timeout

    def steps(self, workers: int, ahead: int, pin: bool) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            _Steps(self.read),
            batch_size=None,
            sampler=self.plans,
            num_workers=workers,
            prefetch_factor=ahead,
            pin_memory=pin,
            timeout=min(POLL_SECONDS, self.timeout),
            worker_init_fn=_start_worker,
        )
        others = set(multiprocessing.active_children())
        with _workers_may_die():
            steps = iter(loader)
        mine = set(multiprocessing.active_children()) - others
        try:
            for _ in range(len(self.plans)):
                step = self._next(steps)
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            for worker in mine:  # torch would wait seconds for one that hangs or still reads ahead
                worker.kill()

    def _next(self, steps: Iterator[Any]) -> Any:
        """The next step; a wait longer than `timeout`, or a dead worker, is `_WorkersLost`."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return next(steps)
            except (RuntimeError, OSError, EOFError) as error:
                # torch tells of a poll without result, of dead workers, and of tensors that died with their worker
                if "timed out" not in str(error):
                    raise _WorkersLost(str(error)) from error
                if time.monotonic() > deadline:
                    raise _WorkersLost(f"no step for {self.timeout:.0f} seconds") from error


class _Steps(Dataset[Any]):
    """A dataset of steps: an item is named by its number and plan, so that workers need no order of their own."""

    def __init__(self, read: Read) -> None:
        self.read = read

    def __getitem__(self, numbered: tuple[int, Any]) -> Any:
        try:
            return self.read(*numbered)
        except Exception as error:  # returned, so that an error in a sample is told from a lost worker
            error.add_note(traceback.format_exc())
            return error


class _Plans:
    """The steps' plans, made in the main process while workers read."""

    def __init__(self, plan: Callable[[int], Any], first: int, stop: int) -> None:
        self.plan = plan
        self.first = first
        self.stop = stop

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return ((step, self.plan(step)) for step in range(self.first, self.stop))

    def __len__(self) -> int:
        return self.stop - self.first


def _start_worker(_: int) -> None:
    """Leave Ctrl-C to the main process, and end at a SIGTERM whatever the main process does with one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@contextlib.contextmanager
def _workers_may_die() -> Iterator[None]:
    """Keep torch from raising in whatever code runs when a worker dies (its SIGCHLD handler): `_next` sees it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def default_workers() -> int:
    """Reading processes for one training process: the cores shared by the processes of this machine, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))

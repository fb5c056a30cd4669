"""Which of several processes does not answer: every meeting of the processes is counted, and each watches the others.

A process that hangs leaves the others waiting in their next reduction or barrier, without a word, until the time-out of
the process group. So each counts the meetings that it has come to and publishes the number; those who wait can tell who
has not come. The threads that do this talk through the store that the processes were started with, on whatever backend.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vpgtrans_core.errors import VpgtError

PATIENCE = 40.0
"""Seconds after which a process that is waited for is named."""
BEAT = 5.0
"""Seconds between two looks."""
GROUP_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one another before they give up: the main one may be writing hundreds of gigabytes."""


LOST = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "broken pipe")
"""What the backends say when a process has gone."""


@contextlib.contextmanager
def other_processes(accelerator: Accelerator, run: Path) -> Iterator[None]:
    """Say in our words that another process has ended while this one waited for it.

    Raises:
        VpgtError: it has.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes < 2 or not any(text in str(error).lower() for text in LOST):
            raise
        raise VpgtError(
            f"another process of the run has ended: {str(error).strip().splitlines()[0]}",
            f"its own messages say why; continue with --resume --out {run}",
        ) from error


class WatchedAccelerator(Accelerator):
    """An `Accelerator` whose meetings are counted by a `Heartbeat`."""

    heartbeat: Heartbeat | None = None

    def watch(self) -> None:
        """Begin to watch the other processes, if there are any."""
        if self.num_processes > 1 and self.heartbeat is None:
            self.heartbeat = Heartbeat(self.process_index, self.num_processes)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        with self._meeting():
            return super().reduce(*args, **kwargs)

    def gather(self, *args: Any, **kwargs: Any) -> Any:
        with self._meeting():
            return super().gather(*args, **kwargs)

    def wait_for_everyone(self) -> None:
        with self._meeting():
            super().wait_for_everyone()

    def _meeting(self) -> contextlib.AbstractContextManager[None]:
        return self.heartbeat.meeting() if self.heartbeat is not None else contextlib.nullcontext()


class Heartbeat:
    """Publishes how many meetings this process has come to, and names those that are late.

    Args:
        rank, world: this process and how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        from torch.distributed import PrefixStore
        from torch.distributed.distributed_c10d import _get_default_store

        self.rank = rank
        self.world = world
        self.count = 0
        self.waits = False
        store: Any = _get_default_store()  # a connection of its own: the threads of a process share none
        self._store: Any = PrefixStore("vpgt/heartbeat", store.clone())
        self._publish()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """While entered this process waits for the others."""
        self.count += 1
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def _publish(self) -> None:
        self._store.set(str(self.rank), f"{self.count} {os.getpid()} {socket.gethostname()}")

    def _watch(self) -> None:
        """Look at all processes again and again; ends with the store, which the main process holds."""
        late: dict[int, float] = {}
        told: set[tuple[int, int]] = set()
        seen = -1
        with contextlib.suppress(Exception):
            while not self._ended.wait(min(BEAT, PATIENCE / 4)):
                self._publish()
                if not self.waits or self.count != seen:
                    seen, late = self.count, {}
                    continue
                where = self._others()
                behind = {rank for rank, (count, _) in where.items() if count < self.count}
                late = {rank: late.get(rank, time.monotonic()) for rank in behind}
                if self.rank == min(set(range(self.world)) - behind):
                    self._tell(late, where, told)

    def _tell(self, late: dict[int, float], where: dict[int, tuple[int, str]], told: set[tuple[int, int]]) -> None:
        for rank, since in late.items():
            seconds = time.monotonic() - since
            if seconds >= PATIENCE and (rank, self.count) not in told:
                told.add((rank, self.count))
                print(
                    f"warning: process {rank} ({where[rank][1]}) has not answered for {seconds:.0f} seconds; "
                    "the others wait for it. It may be reading or writing something large, or hang: "
                    "`py-spy dump --pid` shows where it is",
                    file=sys.stderr,
                    flush=True,
                )

    def _others(self) -> dict[int, tuple[int, str]]:
        """Of each other process its count of meetings, and which one it is."""
        others = {}
        for rank in range(self.world):
            if rank != self.rank and self._store.check([str(rank)]):
                count, process, host = self._store.get(str(rank)).decode().split(" ", 2)
                others[rank] = int(count), f"process id {process} on {host}"
        return others

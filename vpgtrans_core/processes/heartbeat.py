"""Name the process that does not answer: each process counts its collective operations and watches the others.

When a process hangs, the others wait silently in their next reduction or barrier until the process group times out. So
each process publishes how many collective operations it has entered, and a process that waits can tell which one is
behind. The watching threads talk through the store that the processes were started with, whatever the backend.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor

from vpgtrans_core.errors import VpgtError
from vpgtrans_core.processes import lost
from vpgtrans_core.processes.launching import launcher

PATIENCE = 40.0
"""Seconds after which a late process is named."""
BEAT = 5.0
"""Seconds between two looks at the other processes."""

LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "timed out waiting",
    "got 0 bytes",
    "connection was likely closed",
)
"""Parts of the backends' error messages when a process has ended."""


@contextlib.contextmanager
def other_processes(accelerator: Accelerator, run: Path) -> Iterator[None]:
    """Replace the backend's error by a clear one when another process has ended while this one waited for it.

    Raises:
        VpgtError: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes < 2 or not any(text in str(error).lower() for text in LOST):
            raise
        cause = f"another process of the run has ended: {str(error).strip().splitlines()[0]}"
        ended = VpgtError(
            lost.losses[0] if lost.losses else cause,
            f"its own messages give the cause; continue with --resume --out {run}",
        )
        ended.in_every_process = True
        raise ended from error


class WatchedAccelerator(Accelerator):
    """An `Accelerator` whose collective operations are counted by a `Heartbeat`."""

    heartbeat: Heartbeat | None = None

    def watch(self) -> None:
        """Start to watch the other processes, if there are any."""
        if self.num_processes > 1 and self.heartbeat is None:
            if (parent := launcher()) is not None:
                threading.Thread(target=_end_with, args=(parent,), name="launcher", daemon=True).start()
            self.heartbeat = Heartbeat(self.process_index, self.num_processes)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        with self.meeting():
            return super().reduce(*args, **kwargs)

    def gather(self, *args: Any, **kwargs: Any) -> Any:
        with self.meeting():
            return super().gather(*args, **kwargs)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's tensor in every process."""
        with self.meeting():
            return broadcast(tensor)

    def gather_object(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in the order of the processes."""
        with self.meeting():
            return gather_object(items)

    def wait_for_everyone(self) -> None:
        with self.meeting():
            super().wait_for_everyone()

    def meeting(self) -> contextlib.AbstractContextManager[None]:
        """In this context the process waits for the others."""
        return self.heartbeat.meeting() if self.heartbeat is not None else contextlib.nullcontext()


def _end_with(parent: int) -> None:
    """Stop this process when its launcher is killed, which cannot end it any more: as SIGTERM does, so that training
    saves a checkpoint; at once if that takes too long, because the others wait."""
    while os.getppid() == parent:
        time.sleep(1.0)
    with contextlib.suppress(OSError):  # stderr may have ended with the launcher
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("the launcher of these processes has ended: they stop", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


class Heartbeat:
    """Publishes how many collective operations this process has entered, and names processes that are late.

    Args:
        rank, world: the number of this process, and how many there are.
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
        if lost.several_machines():
            lost.watch_machines(rank, PrefixStore("vpgt/lost", store.clone()), lambda: self.waits)
        self._publish()
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """A collective operation: in this context the process waits for the others."""
        self.count += 1
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def _publish(self) -> None:
        self._store.set(str(self.rank), f"{self.count} {os.getpid()} {socket.gethostname()}")

    def _watch(self) -> None:
        """Look at all processes repeatedly; ends with the store, which the main process holds."""
        late: dict[int, float] = {}
        told: set[tuple[int, int]] = set()
        seen = -1
        with contextlib.suppress(Exception):
            while True:
                time.sleep(min(BEAT, PATIENCE / 4))
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
                    "the others wait for it. It may be reading or writing a large file, or it may hang: "
                    "`py-spy dump --pid` shows where",
                    file=sys.stderr,
                    flush=True,
                )

    def _others(self) -> dict[int, tuple[int, str]]:
        """Each other process's count of collective operations, and its id and host."""
        others = {}
        for rank in range(self.world):
            if rank != self.rank and self._store.check([str(rank)]):
                count, process, host = self._store.get(str(rank)).decode().split(" ", 2)
                others[rank] = int(count), f"process id {process} on {host}"
        return others

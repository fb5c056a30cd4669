"""How the processes of a run come together.

A process that dies before all have met leaves the others waiting, and no connection between them tells it. So the
meeting has a short time-out of its own; the long one, for what the processes do together, holds from then on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

from accelerate.utils import InitProcessGroupKwargs

from vpgtrans_core.errors import VpgtError
from vpgtrans_core.processes import heartbeat
from vpgtrans_core.processes.heartbeat import WatchedAccelerator

JOIN_TIMEOUT = timedelta(minutes=10)
"""How long a process waits at the start until all have come: nodes boot and import at different speeds."""
GROUP_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one another later: the main one may be writing hundreds of gigabytes."""


def joined(cpu: bool) -> WatchedAccelerator:
    """Meet the other processes that the launcher started, if there are any, and watch them from then on.

    Raises:
        VpgtError: not all have come within `JOIN_TIMEOUT`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    patience = InitProcessGroupKwargs(timeout=JOIN_TIMEOUT)
    with _told_of_waiting(world):
        try:
            accelerator = WatchedAccelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patience])
            accelerator.watch()
        except RuntimeError as error:
            if world < 2:
                raise
            raise VpgtError(
                f"the {world} processes of the run have not come together: {str(error).strip().splitlines()[0]}",
                "one of them may have ended or never been started; its own messages give the cause. Start all of "
                "them again, with the same MASTER_ADDR and MASTER_PORT",
            ) from error
    if accelerator.num_processes > 1:
        from torch.distributed.distributed_c10d import _set_pg_timeout

        _set_pg_timeout(GROUP_TIMEOUT)  # torch has no public name for it
    return accelerator


@contextlib.contextmanager
def _told_of_waiting(world: int) -> Iterator[None]:
    """Say once that this process is waiting, if it waits for long."""
    timer = threading.Timer(heartbeat.PATIENCE, _tell, [world])
    timer.daemon = True
    if world > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(world: int) -> None:
    print(
        f"warning: process {os.environ.get('RANK', '0')} has waited {heartbeat.PATIENCE:.0f} seconds for the other "
        f"processes to start; there should be {world}. It waits up to {JOIN_TIMEOUT.total_seconds():.0f} seconds",
        file=sys.stderr,
        flush=True,
    )

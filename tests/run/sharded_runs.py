"""Runs several transfers, one after the other, in each of the processes that `start` launches: imports are dear.

A case is the settings of a run, and perhaps memory that gives out: ``{"rank": 1, "gather": 3}`` lets process 1 run out
of memory in its first step, before it takes part in gathering the fourth block of a pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vpgtrans_core.processes.lockstep import Gathers, Lockstep

Case = dict[str, Any]


def start(cases: list[Case], count: int, port: int) -> list[subprocess.Popen]:
    """`count` processes that run the cases."""
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.getcwd()}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.run.sharded_runs", json.dumps(cases)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


@contextlib.contextmanager
def out_of_memory(rank: int, gather: int) -> Iterator[list[int]]:
    """In this context memory gives out once, as the module says; gives the micro-batches' sizes of failed steps."""
    whole, run = Gathers.__call__, Lockstep.run
    left = [1 if os.environ["RANK"] == str(rank) else 0]
    trains = [False]

    def gathered(self: Gathers, *args: Any, **more: Any) -> Any:
        if left[0] and trains[0] and len(self.done) == gather:
            left[0] = 0
            raise torch.OutOfMemoryError("no memory is left, as the test wants it")
        return whole(self, *args, **more)

    def ran(self: Lockstep, parts: Any, work: Any, empty: Callable[[], None], recover: Any, gradients: bool) -> None:
        self._pass(empty, gradients)  # what a pass gathers is learned before memory gives out
        trains[0] = gradients
        run(self, parts, work, empty, recover, gradients)

    Gathers.__call__, Lockstep.run = gathered, ran  # type: ignore[method-assign,assignment]
    try:
        yield left
    finally:
        Gathers.__call__, Lockstep.run = whole, run  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    from vpgtrans_core.run.pipeline import transfer

    for case in json.loads(sys.argv[1]):
        fault = out_of_memory(**case["fault"]) if "fault" in case else contextlib.nullcontext([0])
        with fault as left:
            transfer(**case["settings"])
        assert not left[0], "memory did not give out"


if __name__ == "__main__":
    main()

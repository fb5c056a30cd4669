"""Passes that all processes take in step, because each gathers from the others what it computes with.

A model in shards runs only if every process runs the same passes in the same order: a process that has less to compute
joins with an empty pass, and one that runs out of memory in the middle of a pass still hands out its shards until the
end of it. Only then can the processes agree that all of them repeat the work in smaller parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from vpgtrans_core.processes.heartbeat import WatchedAccelerator

T = TypeVar("T")
Size = tuple[int, torch.dtype]
"""Numbers that each process gives to one gathering, and their type."""


class Gathers:
    """FSDP's way to gather a block, watched like every collective operation and noted in `done`."""

    def __init__(self, accelerator: WatchedAccelerator) -> None:
        self.done: list[Size] = []
        self._accelerator = accelerator
        # An older torch calls it otherwise.
        self._gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The memory for what is gathered."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        self.done.append((input_tensor.numel(), input_tensor.dtype))
        with self._accelerator.meeting():
            work: dist.Work | None = self._gather(output_tensor, input_tensor, group=group, async_op=async_op)
        return work

    def hand_out(self, sizes: Sequence[Size], group: dist.ProcessGroup) -> None:
        """Take part in gatherings without computing; what the others get from this process is zeros."""
        device = self._accelerator.device
        for count, dtype in sizes:
            given = torch.zeros(count, dtype=dtype, device=device)
            self(given.new_empty(count * group.size()), given, group)


class Lockstep:
    """Keeps the processes of a run in step.

    Args:
        accelerator: the processes.
        mesh: the same processes as torch's sharding knows them.
    """

    def __init__(self, accelerator: WatchedAccelerator, mesh: DeviceMesh) -> None:
        self.accelerator = accelerator
        self.mesh = mesh
        self.gathers = Gathers(accelerator)
        self._passes: dict[bool, list[Size]] = {}

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def least(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        return -self.most(-number)

    def of_main(self, value: float) -> float:
        """The main process's value in every process."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.broadcast(tensor))

    def run(
        self,
        parts: Sequence[T],
        work: Callable[[T], None],
        empty: Callable[[], None],
        recover: Callable[[], None],
        gradients: bool,
    ) -> None:
        """Do `work` on each of this process's parts while the others do theirs; each part is one pass.

        Args:
            empty: a pass over nothing, for a process that has fewer parts than another.
            recover: called after a pass that ran out of memory, when nothing of it is held any more.
            gradients: whether a pass goes back, too.

        Raises:
            torch.OutOfMemoryError: in every process, when one of them has run out of memory.
        """
        whole = self._pass(empty, gradients)
        failed = False
        for number in range(self.most(len(parts))):
            self.gathers.done = []
            if not failed:
                failed = not (_fits(lambda n=number: work(parts[n])) if number < len(parts) else _fits(empty))  # type: ignore[misc]
                if failed:
                    recover()
            if failed:
                self.gathers.hand_out(whole[len(self.gathers.done) :], self.mesh.get_group())
        if self.most(int(failed)):
            raise torch.OutOfMemoryError("a process has run out of memory")

    def _pass(self, empty: Callable[[], None], gradients: bool) -> list[Size]:
        """What is gathered in one pass, in order: known from an empty one."""
        if gradients not in self._passes:
            self.gathers.done = []
            empty()
            self._passes[gradients] = self.gathers.done
        return self._passes[gradients]


def _fits(work: Callable[[], None]) -> bool:
    """Work; return whether memory was enough. The failed graph is free on return, with the exception that held it."""
    try:
        work()
    except torch.OutOfMemoryError:
        return False
    return True

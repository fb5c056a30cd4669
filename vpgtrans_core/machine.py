"""The hardware side of a run: processes, device and precision."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.llm.float8 import why_not_float8
from vpgtrans_core.processes.heartbeat import WatchedAccelerator
from vpgtrans_core.processes.joining import joined
from vpgtrans_core.processes.launching import check_launch
from vpgtrans_core.processes.shared import told_once
from vpgtrans_core.recipes.holding import FLOAT8
from vpgtrans_core.settings import Settings

BYTES_PER_POSITION = 48
"""Activation bytes that a frozen LLM keeps for the backward pass, per position, layer and unit of width, in half
precision; twice as many in fp32. Measured on a GPU: OPT 22, LLaMA 34, and T5 54, for which the unused share of the free
memory leaves room."""
CPU_ACTIVATIONS = 0.675e9
"""Bytes of activations that a micro-batch keeps on a CPU, whose matrix products are as fast with some hundred positions
as with thousands."""
FEWEST_POSITIONS, CPU_MOST_POSITIONS = 256, 8192
"""The least positions computed at once, however large the LLM is; the most on a CPU, however small it is."""


@dataclass(frozen=True)
class Machine:
    """Processes, this process's device, and the precisions.

    Attributes:
        dtype: precision of the frozen parts (ViT, LLM).
        autocast: precision in which the trained parts compute, or None for fp32; their weights are always fp32.
        mesh: the processes that share the LLM's blocks (``--shard``); None where each holds the whole LLM.
    """

    accelerator: WatchedAccelerator
    device: torch.device
    dtype: torch.dtype
    autocast: torch.dtype | None
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def positions_at_once(
        self,
        layers: int,
        hidden_size: int,
        shares: Mapping[torch.device, float] | None = None,
        *,
        recomputes: bool = False,
    ) -> int:
        """LLM positions of a micro-batch: on a GPU as many as fit in the free memory (a step that runs out of memory
        halves them), on a CPU as many as its matrix products need.

        Args:
            shares: of the layers on each of several devices; the fullest one decides.
            recomputes: whether a position keeps of each layer its input alone, and of one layer all.
        """
        value = 4 if self.dtype == torch.float32 else 2

        def each(layers: float) -> float:
            kept = value * layers + BYTES_PER_POSITION * value / 2 if recomputes else 0.0
            return hidden_size * (kept or BYTES_PER_POSITION * layers * value / 2)

        if self.device.type != "cuda":
            return min(max(FEWEST_POSITIONS, int(CPU_ACTIVATIONS / each(layers))), CPU_MOST_POSITIONS)
        gc.collect()
        torch.cuda.empty_cache()  # memory that torch holds but no tensor uses is free too
        fitting = []
        for device, share in (shares or {self.device: 1.0}).items():
            free, _ = torch.cuda.mem_get_info(device)
            whole = free // 10**9 * 10**9  # so that a resumed run gets the same number
            fitting.append(int(0.7 * whole / each(share * layers)))
        return max(FEWEST_POSITIONS, min(fitting))


def choose_machine(settings: Settings, half: str) -> Machine:
    """Choose device and precision: those of the settings, else a GPU if there is one, with the precision `half`.

    Raises:
        ConfigError: the launcher's variables do not go together, the device does not exist, or it cannot compute in the
            precision.
        VpgtError: the processes of the run have not come together.
    """
    check_launch(os.environ)
    _check_place(settings, int(os.environ.get("WORLD_SIZE", "1")))
    wants_cpu = settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())
    if not wants_cpu and settings.device != "auto":
        _check_cuda(settings.device)
    accelerator = joined(cpu=wants_cpu)
    device = accelerator.device
    if settings.device.startswith("cuda:") and accelerator.num_processes == 1:
        device = torch.device(settings.device)
    dtype = _dtype(settings, device, half)
    if settings.quantization == FLOAT8 and (cause := why_not_float8(device)):
        raise ConfigError([f"quantization: {cause}"], "leave --quantization float8 out, or use 8bit or 4bit")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    mesh = _mesh(accelerator, device, bool(settings.shard))
    return Machine(accelerator, device, dtype, None if dtype == torch.float32 else dtype, mesh)


def _mesh(accelerator: WatchedAccelerator, device: torch.device, shard: bool) -> DeviceMesh | None:
    """All processes, to shard the LLM over; None if there is one, or if that is not asked for.

    Raises:
        ConfigError: in every process, when not all have been asked alike.
    """
    if accelerator.num_processes < 2:
        return None
    if len(set(accelerator.gather_object([shard]))) > 1:
        problem = "shard: some processes were started with --shard and some without"
        raise told_once(ConfigError([problem], "start every process with the same command"))
    return None if not shard else init_device_mesh(device.type, (accelerator.num_processes,))


def _check_cuda(name: str) -> None:
    if not (name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit())):
        raise ConfigError([f"device: must be auto, cpu, cuda or cuda:N, not {name!r}"])
    index = int(name[5:]) if ":" in name else 0
    if index >= torch.cuda.device_count():
        raise ConfigError(
            [f"device: {name} does not exist; torch sees {torch.cuda.device_count()} CUDA devices"],
            "`vpgt doctor` shows what torch sees; --device cpu works everywhere",
        )


def _check_place(settings: Settings, processes: int) -> None:
    if settings.place is not None and processes > 1:
        raise told_once(
            ConfigError(
                [f"place: one process computes on all GPUs, and {processes} processes were started"],
                "start one process without a launcher; or leave --place out, and each holds the whole LLM",
            )
        )


def _dtype(settings: Settings, device: torch.device, half: str) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.float32 if device.type == "cpu" else getattr(torch, half)
    if settings.dtype == "float16" and device.type == "cpu":
        raise ConfigError(["dtype: a CPU cannot train in float16"], "use bfloat16 or float32")
    return getattr(torch, settings.dtype)

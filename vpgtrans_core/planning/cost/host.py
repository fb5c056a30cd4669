"""The host's memory while the LLM is loaded: what each process has of its own, and what all share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vpgtrans_core.models.hub import wanted_files
from vpgtrans_core.planning.cost.shapes import LLMShape
from vpgtrans_core.recipes.holding import FLOAT8
from vpgtrans_core.settings import Settings

BASE = 0.6e9
"""Python with torch, transformers and their buffers. Measured on a CPU: 0.35 GB before a model is loaded."""
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the host's memory at the peak of loading.

    The LLM's file is mapped, not read: the system keeps one copy of it for all processes, and drops pages of it when
    memory is short. Weights of another precision than the run's are converted tensor by tensor. On a GPU the converted
    tensor goes there at once; on a CPU it stays.

    Attributes:
        processes: one for each GPU.
        base: of a process before the LLM.
        own: the LLM's weights that each process has for itself.
        file: the LLM's file, once for all processes.
    """

    processes: int
    base: float
    own: float
    file: float

    @property
    def one(self) -> float:
        """The most that one process shows as its resident memory."""
        return self.base + self.own + self.file

    @property
    def total(self) -> float:
        """Of all processes together."""
        return self.processes * (self.base + self.own) + self.file


def host_memory(shape: LLMShape, settings: Settings, file: float, precision: int, processes: int) -> HostMemory:
    """The host's memory while an LLM is loaded.

    Args:
        shape: of the LLM.
        settings: device and precision.
        file: bytes of the LLM's file.
        precision: bytes of a weight in a run on a GPU.
        processes: how many load it.
    """
    run_bytes = run_precision(settings, precision)
    stays = settings.device == "cpu" or settings.quantization == FLOAT8  # which goes to the GPU when it is all read
    converted = shape.loaded if stays else shape.vocab_size * shape.embedding_size
    own = float(run_bytes * converted) if converts(shape, file, run_bytes) else 0.0
    return HostMemory(processes, BASE, own, file)


def held_memory(
    shape: LLMShape, settings: Settings, file: float, precision: int, gpus: int, *, part: float | None, away: float
) -> HostMemory:
    """The host's memory where GPUs hold parts of an LLM.

    Args:
        part: bytes of each process's shards, which it reads before they go to its GPU; None for one process whose LLM
            is spread over the GPUs.
        away: bytes that stay in main memory.
    """
    one = host_memory(shape, settings, file, precision, gpus if part is not None else 1)
    if part is not None:
        return replace(one, own=part * (2 if converts(shape, file, precision) else 1))
    return replace(one, own=one.own + away)


def converts(shape: LLMShape, file: float, run_bytes: float) -> bool:
    """Whether the file has another precision than the run."""
    return abs(file / shape.parameters - run_bytes) > 0.1


def run_precision(settings: Settings, precision: int) -> int:
    """Bytes of a weight in the run."""
    on_cpu = settings.device == "cpu"
    return 4 if on_cpu and settings.dtype == "auto" else precision


def file_bytes(folder: Path | None, config: dict[str, Any], weights: int) -> float:
    """Bytes of an LLM's weights on disk: of the files, else by the config's precision, else at most."""
    if folder is not None and (sizes := _sizes(folder)):
        return float(sum(sizes))
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return float(DTYPE_BYTES.get(name, 4) * weights)


def _sizes(folder: Path) -> list[int]:
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    wanted = [pattern for pattern in wanted_files(list(files)) if pattern.endswith((".safetensors", ".bin"))]
    return [path.stat().st_size for name, path in files.items() if any(fnmatch(name, each) for each in wanted)]

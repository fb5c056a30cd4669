"""What an estimate says: the work, memory, time and money of a transfer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.planning.cost.assumptions import Assumptions
from vpgtrans_core.planning.cost.chips import Chip
from vpgtrans_core.planning.cost.comparison import Comparison
from vpgtrans_core.planning.cost.flops import Flops
from vpgtrans_core.planning.cost.host import HostMemory
from vpgtrans_core.planning.cost.memory import Memory
from vpgtrans_core.planning.cost.ways import Way


@dataclass(frozen=True)
class StageCost:
    """One stage: FLOPs per caption and in total, wall-clock hours, GPU-hours, US dollars.

    `number` is 0 for what is not a stage of the plan: training from scratch, and what comes before the first stage."""

    number: int
    name: str
    captions: float
    flops: Flops
    flops_per_caption: float
    total_flops: float
    hours: float
    gpu_hours: float
    usd: float


@dataclass(frozen=True)
class Fit:
    """How a stage fits on the GPU.

    Attributes:
        images: computed at once; 0 when not one image fits.
        most_images: the most that fit, or all of a step's.
        positions: LLM positions at once.
        quantization: ``none``, ``8bit``, ``4bit`` or ``float8``: the least that makes it fit, or that of the settings.
        checkpointing: whether it fits only with recomputed activations.
        memory: at `images`.
    """

    stage: int
    name: str
    images: int
    most_images: int
    positions: int
    quantization: str
    checkpointing: bool
    memory: Memory


@dataclass(frozen=True)
class Cost:
    """What a transfer costs.

    Attributes:
        stages: its stages; `gpu_hours` and `usd` are the sums of all `parts`.
        describing: the source's captions, if it writes any.
        looks: the source's own loss and the projector's start, as far as they are computed.
        scratch: training from scratch with the paper's data amount, by vpgt; `scratch_paper_code` by the paper's code,
            in GPU-hours on this chip.
        fits: of each stage.
        disk: bytes of a cache of VPG outputs and of ViT features, if they are kept, and of the model folder.
        host: the host's memory while the LLM is loaded, in the way that is picked.
        paper: the paper's runs.
        ways: to hold the LLM on these GPUs. Their hours have the traffic in them, those of the stages only the work.
    """

    chip: Chip
    assumptions: Assumptions
    stages: tuple[StageCost, ...]
    scratch: StageCost
    scratch_paper_code: float
    fits: tuple[Fit, ...]
    disk: dict[str, float]
    host: HostMemory
    paper: tuple[Comparison, ...]
    describing: StageCost | None = None
    ways: tuple[Way, ...] = ()
    looks: tuple[StageCost, ...] = ()

    @property
    def parallel(self) -> int:
        """GPUs that work at the same time, as the LLM is held."""
        return next((way.parallel for way in self.ways if way.picked), self.assumptions.gpus)

    @property
    def before(self) -> tuple[StageCost, ...]:
        """What is computed before the first stage."""
        return (*((self.describing,) if self.describing else ()), *self.looks)

    @property
    def parts(self) -> tuple[StageCost, ...]:
        return (*self.before, *self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(part.gpu_hours for part in self.parts)

    @property
    def usd(self) -> float:
        return sum(part.usd for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        totals = [{**dataclasses.asdict(f.memory), "total": f.memory.total} for f in self.fits]
        values = dataclasses.asdict(self)
        values["host"] |= {"one": self.host.one, "total": self.host.total}
        for fit, memory in zip(values["fits"], totals, strict=True):
            fit["memory"] = memory
        for way, of in zip(values["ways"], self.ways, strict=True):
            way["memory"]["total"] = of.memory.total
            way["host"] |= {"one": of.host.one, "total": of.host.total}
        return {**values, "gpu_hours": self.gpu_hours, "usd": self.usd}

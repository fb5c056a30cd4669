"""The ways to hold a frozen LLM on some GPUs: which fit, what they cost, and which is picked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from vpgtrans_core.planning.cost.chips import Chip
from vpgtrans_core.planning.cost.holding import Held, Hold, Spread, held, traffic, weights_of
from vpgtrans_core.planning.cost.host import HostMemory
from vpgtrans_core.planning.cost.memory import Memory, MemoryModel

QUANTIZATIONS = ("none", "8bit", "4bit")
"""From the best to the smallest; those that are tried where the settings leave it open."""
ELSEWHERE: dict[Hold, tuple[str, ...]] = {"shards": ("none",), "spilled": ("none",), "spread": QUANTIZATIONS}
"""What the LLM may be quantised to where it is not whole on each GPU."""
LINK_SHARE = 0.7
"""The share of a link's stated rate that large messages reach."""
HOLDS: tuple[Hold, ...] = ("copies", "shards", "spread", "spilled")


@dataclass(frozen=True)
class Work:
    """One stage as the ways see it.

    Attributes:
        model: its memory on one GPU, under a quantisation, with recomputed activations or without.
        steps: how many.
        images: of one step, over all processes.
        seconds: of one step, if one GPU did it all without recomputing activations.
        again: of recomputing them.
        trained: parameters.
    """

    model: Callable[[str, bool], MemoryModel]
    steps: float
    images: int
    seconds: float
    again: float
    trained: int


@dataclass(frozen=True)
class Way:
    """One way to hold the LLM.

    Attributes:
        hold: where its weights are.
        quantization: ``none``, ``8bit``, ``4bit`` or ``float8``.
        checkpointing: whether some stage needs recomputed activations.
        memory: of the fullest GPU, in the stage that needs most, with one image at once and recomputed activations.
        fits: whether every stage fits.
        host: main memory.
        gpu_bytes, host_bytes: that pass between GPUs (for the one that receives most) and to and from main memory, in
            a step of the longest stage.
        traffic_seconds, seconds: of that step: what the traffic alone takes, and the whole.
        hours, usd: of all stages.
        parallel: GPUs that work at the same time.
        picked: whether it is the best that fits.
    """

    hold: Hold
    quantization: str
    checkpointing: bool
    memory: Memory
    fits: bool
    host: HostMemory
    gpu_bytes: float = 0.0
    host_bytes: float = 0.0
    traffic_seconds: float = 0.0
    seconds: float = 0.0
    hours: float = 0.0
    usd: float = 0.0
    parallel: int = 1
    picked: bool = False

    @property
    def rank(self) -> tuple[int, float]:
        """The smaller, the better: unquantised, 8 bits, 4 bits, and main memory last; then by hours."""
        if self.hold == "spilled":
            return len(QUANTIZATIONS), self.hours
        return QUANTIZATIONS.index(self.quantization) if self.quantization in QUANTIZATIONS else 0, self.hours


@dataclass(frozen=True)
class _Step:
    gpu_bytes: float
    host_bytes: float
    traffic_seconds: float
    seconds: float
    checkpointing: bool


@dataclass(frozen=True)
class Ways:
    """All ways for some GPUs.

    Attributes:
        chip, gpus: the GPUs.
        full: the share of a GPU's memory that a plan fills.
        price: US dollars an hour, of one.
        stages: of the run.
        host: main memory, given how the LLM is held and how much of it stays there.
    """

    chip: Chip
    gpus: int
    full: float
    price: float
    stages: Sequence[Work]
    host: Callable[[Hold, float], HostMemory]

    def all(self, quantization: str, holds: Sequence[Hold]) -> tuple[Way, ...]:
        """Every way that there is, with the best that fits picked.

        Args:
            quantization: the settings'; ``none`` leaves it open.
            holds: those to consider.
        """
        given = QUANTIZATIONS if quantization == "none" else (quantization,)
        table = [
            way
            for hold in (holds if self.stages else ())
            for each in given
            if each in ELSEWHERE.get(hold, given) and (way := self._way(hold, each)) is not None
        ]
        best = min((way for way in table if way.fits), key=lambda way: way.rank, default=None)
        return tuple(replace(way, picked=way is best) for way in table)

    def held(self, stage: Work, hold: Hold, quantization: str, checkpointing: bool) -> Held:
        """A stage's memory on the fullest GPU, where the LLM can be held so."""
        found = self._held(stage, hold, quantization, checkpointing)
        assert found is not None
        return found

    def _held(self, stage: Work, hold: Hold, quantization: str, checkpointing: bool) -> Held | None:
        return held(stage.model(quantization, checkpointing), hold, self.gpus, self.full * self.chip.memory_gb * 1e9)

    def _way(self, hold: Hold, quantization: str) -> Way | None:
        models = [self._held(stage, hold, quantization, True) for stage in self.stages]
        if any(model is None for model in models):
            return None
        most = max((model.at(1) for model in models if model is not None), key=lambda memory: memory.total)
        away = max(model.away if isinstance(model, Spread) else 0.0 for model in models)
        fits = most.total <= self.full * self.chip.memory_gb * 1e9
        parallel = self.gpus if hold in ("copies", "shards") else 1
        way = Way(hold, quantization, True, most, fits, self.host(hold, away), parallel=parallel)
        if not fits:
            return way
        steps = [self._step(stage, hold, quantization, parallel) for stage in self.stages]
        longest = max(zip(self.stages, steps, strict=True), key=lambda each: each[0].steps)[1]
        hours = sum(stage.steps * step.seconds for stage, step in zip(self.stages, steps, strict=True)) / 3600
        return replace(
            way,
            checkpointing=any(step.checkpointing for step in steps),
            gpu_bytes=longest.gpu_bytes,
            host_bytes=longest.host_bytes,
            traffic_seconds=longest.traffic_seconds,
            seconds=longest.seconds,
            hours=hours,
            usd=hours * self.gpus * self.price,
        )

    def _step(self, stage: Work, hold: Hold, quantization: str, parallel: int) -> _Step:
        """One step: work and traffic; the blocks of shards are gathered while others compute."""
        each = math.ceil(stage.images / parallel)
        model, most = self._largest(stage, hold, quantization, each)
        value = model.parts[0] if isinstance(model, Spread) else model
        passed = traffic(
            model,
            hold,
            weights_of(value.shape, value.precision, quantization),
            self.gpus,
            trained=stage.trained,
            passes=math.ceil(each / most),
            positions=stage.images * value.rows.all_positions,
            value=value.precision * value.shape.embedding_size,
        )
        link, bus = (1e9 * LINK_SHARE * rate for rate in (self.chip.link_gbs, self.chip.host_gbs))
        takes = passed.gpus / link + passed.host / bus
        work = (stage.seconds + (stage.again if value.checkpointing else 0.0)) / parallel
        seconds = max(work, takes) if hold == "shards" else work + takes
        return _Step(passed.gpus, passed.host, takes, seconds, value.checkpointing)

    def _largest(self, stage: Work, hold: Hold, quantization: str, most: int) -> tuple[Held, int]:
        """The largest micro-batch that fits, of activations that are kept if possible."""
        for checkpointing in (True,) if hold == "spilled" else (False, True):
            model = self.held(stage, hold, quantization, checkpointing)
            if images := model.most_images(self.full * self.chip.memory_gb * 1e9, most):
                break
        return model, max(1, images)


def would_fit(table: Sequence[Way], chips: Iterable[Chip], full: float) -> tuple[Way, Chip] | None:
    """The smallest known GPU that holds the smallest copy, and that way; None if no GPU does.

    Args:
        full: the share of a GPU's memory that a plan may fill.
    """
    copies = [way for way in table if way.hold == "copies"]
    smallest = min(copies, key=lambda way: way.memory.total, default=None)
    if smallest is None:
        return None
    fitting = [chip for chip in chips if chip.name != "cpu" and full * chip.memory_gb * 1e9 >= smallest.memory.total]
    return (smallest, min(fitting, key=lambda chip: chip.memory_gb)) if fitting else None

"""The ways to hold the LLM, as ``vpgt plan`` prints them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vpgtrans_core.cli.columns import columns

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.chips import Chip
    from vpgtrans_core.planning.cost.costs import Cost
    from vpgtrans_core.planning.cost.ways import Way

NAMES = {
    "copies": "a copy on each GPU",
    "shards": "in shards",
    "spread": "spread over the GPUs",
    "spilled": "spread over GPUs and main memory",
}
FLAGS = {"copies": (), "shards": ("--shard",), "spread": ("--place auto",), "spilled": ("--place auto:cpu",)}
BITS = {"none": "", "8bit": ", 8 bits", "4bit": ", 4 bits", "float8": ", in float8"}
PROGRAM = "-m vpgtrans_core.cli.main transfer"


def ways_text(cost: Cost, chips: Iterable[Chip]) -> list[str]:
    """The table, the way that is picked with its command, and what would hold a copy where no GPU of these does."""
    from vpgtrans_core.planning.cost.estimate import FULL
    from vpgtrans_core.planning.cost.ways import would_fit

    if not cost.ways:
        return []
    room = FULL * cost.chip.memory_gb
    header = ("WAY TO HOLD THE LLM", f"GB OF {room:.1f}", "HOST GB", "GB A STEP", "ITS S", "S A STEP", "HOURS", "USD")
    lines = columns(header, [_row(way) for way in cost.ways], right=range(1, 8))
    picked = next((way for way in cost.ways if way.picked), None)
    if picked is not None:
        lines.append(f"picked: {name(picked)}: {command(picked, cost.assumptions.gpus)}")
    if not any(way.fits for way in cost.ways if way.hold != "spilled"):
        lines.append(_larger(would_fit(cost.ways, chips, FULL)))
    return lines


def name(way: Way) -> str:
    return NAMES[way.hold] + BITS[way.quantization]


def flags(way: Way) -> list[str]:
    """What asks for a way."""
    given = [*FLAGS[way.hold]]
    given += [f"--quantization {way.quantization}"] if way.quantization != "none" else []
    return given + (["--checkpoint-activations"] if way.checkpointing and way.hold != "spilled" else [])


def command(way: Way, gpus: int) -> str:
    """How a run is started so, on one machine."""
    start = f"torchrun --standalone --nproc-per-node {gpus} {PROGRAM}" if way.parallel > 1 else "vpgt transfer"
    return " ".join([start, "...", *flags(way)])


def _row(way: Way) -> tuple[str, ...]:
    least = f"{way.memory.total / 1e9:.1f}"
    host = f"{way.host.total / 1e9:.0f}"
    if not way.fits:
        return name(way), least, host, "", "", "", "too large", ""
    traffic = f"{(way.gpu_bytes + way.host_bytes) / 1e9:.1f}"
    seconds = [f"{each:,.1f}" if each >= 0.1 else f"{each:.2g}" for each in (way.traffic_seconds, way.seconds)]
    return name(way), least, host, traffic, *seconds, f"{way.hours:,.1f}", f"{way.usd:,.2f}"


def _larger(found: tuple[Way, Chip] | None) -> str:
    if found is None:
        return "no GPU that vpgt knows holds a copy; a smaller LLM would fit"
    way, chip = found
    needs = f"--quantization {way.quantization}" if way.quantization != "none" else "a copy"
    return f"the GPUs alone cannot hold it; {needs} would fit on {chip.title} (--gpu {chip.name}) or larger"

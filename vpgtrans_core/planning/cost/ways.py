"""The ways to hold a frozen LLM, and which of them fit a GPU. With several GPUs each holds a whole copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vpgtrans_core.planning.cost.chips import Chip
from vpgtrans_core.planning.cost.memory import Memory, MemoryModel

QUANTIZATIONS = ("none", "8bit", "4bit")
"""From the best to the smallest."""


@dataclass(frozen=True)
class Way:
    """One way to hold the LLM.

    Attributes:
        quantization: ``none``, ``8bit`` or ``4bit``.
        memory: of the stage that needs most, with one image at once and recomputed activations.
        fits: whether every stage fits.
        picked: whether it is the best that fits.
    """

    quantization: str
    memory: Memory
    fits: bool
    picked: bool


def ways(model: Callable[[int, str], MemoryModel], stages: int, given: str, room: float) -> tuple[Way, ...]:
    """Every way, from the best to the smallest; if the settings name a quantisation, that one only.

    Args:
        model: the memory of a stage, by its place in the list, under a quantisation.
        stages: how many there are.
        given: the settings' quantisation.
        room: bytes that a plan may fill.
    """
    table: list[Way] = []
    if not stages:
        return ()
    for quantization in QUANTIZATIONS if given == "none" else (given,):
        most = max((model(place, quantization).at(1) for place in range(stages)), key=lambda memory: memory.total)
        fits = most.total <= room
        table.append(Way(quantization, most, fits, fits and not any(way.fits for way in table)))
    return tuple(table)


def would_fit(table: Sequence[Way], chips: Iterable[Chip], full: float) -> tuple[Way, Chip] | None:
    """The smallest known GPU that holds the smallest way, and that way; None if no GPU does.

    Args:
        full: the share of a GPU's memory that a plan may fill.
    """
    smallest = min(table, key=lambda way: way.memory.total)
    fitting = [chip for chip in chips if chip.name != "cpu" and full * chip.memory_gb * 1e9 >= smallest.memory.total]
    return (smallest, min(fitting, key=lambda chip: chip.memory_gb)) if fitting else None

"""What each GPU holds of the LLM in each way to hold it, and what passes between GPUs in a step. Bytes throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vpgtrans_core.planning.cost.memory import QUANTIZED, Memory, MemoryModel, largest
from vpgtrans_core.planning.cost.shapes import LLMShape
from vpgtrans_core.recipes.holding import LEFT

Hold = Literal["copies", "shards", "spread", "spilled"]
"""A copy on each GPU; shards on each; spread over the GPUs in one process; and over main memory, too."""
GATHERED = 3
"""Whole blocks that a GPU has of an LLM in shards: one computes, the next is gathered, and copied into its place."""
STATE = 12
"""Bytes of a trained parameter's gradient and AdamW's two averages."""
UNEVEN = 1.25
"""How many blocks a GPU may get beyond an equal part, as transformers spreads a model."""


@dataclass(frozen=True)
class Weights:
    """The LLM's weights: word embeddings, `layers` blocks, and an untied head."""

    first: float
    block: float
    layers: int
    last: float

    @property
    def total(self) -> float:
        return self.first + self.block * self.layers + self.last

    @property
    def outside(self) -> float:
        return self.first + self.last


def weights_of(shape: LLMShape, precision: int, quantization: str = "none") -> Weights:
    """The weights of an LLM; word embeddings and head are never quantised."""
    outside = float(precision * shape.embedding_weights)
    first = float(precision * shape.vocab_size * shape.embedding_size)
    each = QUANTIZED.get(quantization, precision)
    layers = shape.layers + shape.encoder_layers
    return Weights(first, each * (shape.loaded - shape.embedding_weights) / layers, layers, max(0.0, outside - first))


def in_shards(weights: Weights, gpus: int) -> float:
    """What each process holds of an LLM in shards while it computes."""
    return weights.outside + weights.block * (weights.layers / gpus + GATHERED)


@dataclass(frozen=True)
class Load:
    """A GPU's part of an LLM that is spread: bytes, and the share of the blocks that it computes."""

    weights: float
    share: float


def spread(weights: Weights, room: Sequence[float]) -> tuple[list[Load], float]:
    """Fill GPUs in turn, as transformers does, and return what remains, which is 0 if all has room.

    Args:
        room: bytes that weights may take on each GPU; the first keeps some for its largest block.
    """
    even = weights.total / len(room) + UNEVEN * max(weights.block, weights.first, weights.last)
    caps = [min(even, size) for size in room[:-1]] + [room[-1]]
    caps[0] -= weights.block
    loads, rest, device = [Load(0.0, 0.0) for _ in room], 0.0, 0
    parts = [(weights.first, 0)] + [(weights.block, 1)] * weights.layers + [(weights.last, 0)]
    for size, blocks in parts:
        while device < len(room) and loads[device].weights + size > caps[device]:
            device += 1
        if device == len(room):
            rest += size
        else:
            before = loads[device]
            loads[device] = Load(before.weights + size, before.share + blocks / weights.layers)
    return loads, rest


@dataclass(frozen=True)
class Spread:
    """The memory of the fullest GPU of those that an LLM is spread over; asked like a `MemoryModel`.

    Attributes:
        parts: the first GPU, which has the VPG, and the fullest of the others.
        away: bytes of the LLM in main memory.
    """

    parts: tuple[MemoryModel, ...]
    away: float

    @property
    def checkpointing(self) -> bool:
        return self.parts[0].checkpointing

    @property
    def quantization(self) -> str:
        return self.parts[0].quantization

    def at(self, images: float) -> Memory:
        return max((part.at(images) for part in self.parts), key=lambda memory: memory.total)

    def most_images(self, memory: float, limit: int) -> int:
        return largest(lambda images: self.at(images).total <= memory, limit)


Held = MemoryModel | Spread


def held(model: MemoryModel, hold: Hold, gpus: int, memory: float) -> Held | None:
    """The memory of the fullest GPU; None where the LLM cannot be held so.

    Args:
        model: for a whole LLM on one GPU.
        memory: bytes of a GPU.
    """
    weights = weights_of(model.shape, model.precision, model.quantization)
    if hold == "copies":
        return model
    if hold == "shards":
        return replace(model, held=in_shards(weights, gpus))
    room = [memory - model.reserved - LEFT] * gpus
    room[0] -= model.at(0).vpg_weights + STATE * model.vpg.trained  # as at loading, whatever the stage
    loads, rest = spread(weights, [max(0.0, size) for size in room])
    if (rest and hold == "spread") or (not rest and hold == "spilled") or loads[0].weights < weights.first:
        return None
    first = replace(model, held=loads[0].weights + (weights.block if rest else 0.0), share=loads[0].share)
    if rest:  # blocks from main memory compute on the first GPU
        first = replace(first, share=1.0 - sum(load.share for load in loads[1:]))
    others = sorted(loads[1:], key=lambda load: load.weights)[-1:]
    rows = [replace(model, held=load.weights, share=load.share, first=False) for load in others]
    return Spread((first, *rows), rest)


@dataclass(frozen=True)
class Traffic:
    """Bytes that pass in one step: between GPUs, for the one that receives most; and between main memory and a GPU."""

    gpus: float
    host: float = 0.0


def traffic(
    held: Held, hold: Hold, weights: Weights, gpus: int, *, trained: int, passes: int, positions: float, value: float
) -> Traffic:
    """What passes in one step.

    Args:
        trained: parameters whose gradients are summed.
        passes: micro-batches of one process.
        positions: that the LLM computes for the whole batch.
        value: bytes of the hidden state of one position.
    """
    others = (gpus - 1) / gpus
    gradients = 2 * 4 * trained * others  # reduced, then shared
    if hold == "copies":
        return Traffic(gradients)
    if hold == "shards":
        return Traffic(gradients + 2 * passes * weights.block * weights.layers * others)
    assert isinstance(held, Spread)
    return Traffic(2 * (gpus - 1) * positions * value, 2 * passes * held.away)

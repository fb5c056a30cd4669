"""Memory of one GPU in training, by part, in bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpgtrans_core.planning.cost.rows import RowSizes
from vpgtrans_core.planning.cost.shapes import LLMShape

if TYPE_CHECKING:
    from vpgtrans_core.planning.parts import VPGPlan

QUANTIZED = {"8bit": 1.0, "4bit": 0.53, "float8": 1.0}
"""Bytes a quantised weight, its scales included (bitsandbytes int8; nf4 with doubly quantised scales; float8)."""
LOGITS_AT_ONCE = 1 << 25
"""On a GPU, as in `vpgtrans_core.llm.loss`."""
BYTES_PER_LOGIT = 8
"""Logits and the loss's slope for one chunk: both in fp32, or in the LLM's half precision with a softmax in fp32."""
RESERVED = 1.0e9
"""What the CUDA context, its libraries and fragments take."""
VIT_LIVE = 14
"""Live values a feature position and unit of width inside one ViT block (input, norm, queries, keys, values, MLP)."""
BLOCK_LIVE = 12
"""The same inside one block of the LLM in its backward pass."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step."""

    llm_weights: float
    vpg_weights: float
    gradients: float
    optimizer: float
    llm_activations: float
    vpg_activations: float
    working: float
    reserved: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class MemoryModel:
    """Memory of a GPU as a function of the number of images computed at once.

    Attributes:
        shape, vpg: of the LLM and of the VPG.
        rows: what the LLM computes for one image.
        llm_saved, vpg_saved: bytes that an image keeps for the backward pass, in the LLM and in the VPG's trained part.
        trained: parameters that the stage trains.
        precision: bytes of a value in the frozen parts: 2 or 4.
        checkpointing: whether the LLM recomputes its activations.
        reserved: bytes that no tensor takes.
        logits_at_once: most logits of a chunk of the loss.
        held: bytes of the LLM's weights on this GPU; None for all of them.
        share: of the LLM's blocks that this GPU computes.
        first: whether the VPG is on this GPU.
    """

    shape: LLMShape
    vpg: VPGPlan
    rows: RowSizes
    llm_saved: float
    vpg_saved: float
    trained: int
    trains_vpg: bool
    precision: int = 2
    quantization: str = "none"
    checkpointing: bool = False
    reserved: float = RESERVED
    logits_at_once: int = LOGITS_AT_ONCE
    held: float | None = None
    share: float = 1.0
    first: bool = True

    def at(self, images: float) -> Memory:
        """Memory with `images` images computed at once."""
        projector = self.vpg.projector_parameters(self.shape.embedding_size)
        frozen_vpg = self.precision * self.vpg.frozen
        return Memory(
            llm_weights=self._llm_weights() if self.held is None else self.held,
            vpg_weights=self.first * (frozen_vpg + 4.0 * (self.vpg.trained + projector)),
            gradients=self.first * 4.0 * self.trained,
            optimizer=self.first * 8.0 * self.trained,
            llm_activations=images * self._llm_kept(),
            vpg_activations=images * self.vpg_saved if self.trains_vpg and self.first else 0.0,
            working=self._working(images),
            reserved=self.reserved,
        )

    def most_images(self, memory: float, limit: int) -> int:
        """The largest number of images, up to `limit`, that fit in `memory` bytes at once; 0 when not one does."""
        return largest(lambda images: self.at(images).total <= memory, limit)

    def _llm_weights(self) -> float:
        shape = self.shape
        if self.quantization == "none":
            return float(self.precision * shape.loaded)
        plain = shape.embedding_weights
        return QUANTIZED[self.quantization] * (shape.loaded - plain) + self.precision * plain

    def _llm_kept(self) -> float:
        if not self.checkpointing:
            return self.share * self.llm_saved
        # The input of every block, and all that one block keeps while its turn comes.
        shape, rows = self.shape, self.rows
        blocks = shape.layers * rows.positions + shape.encoder_layers * rows.encoder_positions
        layers = shape.layers + shape.encoder_layers
        return self.share * self.precision * shape.embedding_size * blocks + self.llm_saved / layers

    def _working(self, images: float) -> float:
        """The largest that lives for a moment: inside the ViT, in the loss, or in a block's backward pass."""
        width = self.precision * self.shape.embedding_size
        logits = min(self.logits_at_once, images * self.rows.logits * self.shape.vocab_size)
        loss = BYTES_PER_LOGIT * logits
        block = BLOCK_LIVE * width * images * max(self.rows.positions, self.rows.encoder_positions)
        values = 1
        for size in self.vpg.feature_shape:
            values *= size
        vision = VIT_LIVE * self.precision * images * values
        # The ViT has run before anything of the LLM is kept.
        vision -= images * (self._llm_kept() + (self.vpg_saved if self.trains_vpg else 0.0))
        return max(loss, block, vision if self.first else 0.0)


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, where every smaller one does too; 0 when 1 does not."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low

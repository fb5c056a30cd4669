"""Floating point operations of one image in training; a multiply-add counts as two.

The LLM is frozen: its backward pass computes gradients of activations alone, so a matrix costs as much again as in the
forward pass, not twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from vpgtrans_core.planning.cost.rows import RowSizes
from vpgtrans_core.planning.cost.shapes import LLMShape

ATTENTION_BACKWARD = 2.5
"""Backward over forward of an attention that recomputes its scores: five products against two."""


@dataclass(frozen=True)
class VPGWork:
    """FLOPs of the VPG for one image: the frozen part, the trained part, and the latter's backward pass."""

    features: float
    prompts: float
    prompts_backward: float


@dataclass(frozen=True)
class Flops:
    """FLOPs of one image with its captions, by part."""

    features: float
    prompts: float
    projector: float
    llm_forward: float
    llm_backward: float
    head: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def llm_forward(shape: LLMShape, rows: RowSizes) -> tuple[float, float]:
    """Forward FLOPs of the LLM without its head: in matrices and in attention scores.

    Attention is counted over whole rows: the tree's mask saves no work in a dense kernel.
    """
    matrices = 2 * (shape.weights * rows.positions + shape.encoder_weights * rows.encoder_positions)
    pairs = shape.layers * rows.positions * (rows.length + rows.encoder_length)
    pairs += shape.encoder_layers * rows.encoder_positions * rows.encoder_length
    return matrices, 4 * shape.attention_width * pairs


def image_flops(
    shape: LLMShape,
    vpg: VPGWork,
    rows: RowSizes,
    *,
    trains_vpg: bool,
    num_prompts: int,
    output_size: int,
) -> Flops:
    """FLOPs of one image in one stage, the frozen part of its VPG included.

    Args:
        rows: what the LLM computes of its captions.
        trains_vpg: whether the stage trains the VPG, or the projector alone.
        num_prompts, output_size: Q and D of the VPG.
    """
    matrices, attention = llm_forward(shape, rows)
    head = 2 * shape.head_weights * rows.logits
    projector = 2 * num_prompts * output_size * shape.embedding_size
    # No gradient flows into a decoder before its first block reads the encoder.
    idle = 8 * shape.embedding_size * shape.attention_width * rows.positions if shape.encoder_decoder else 0.0
    return Flops(
        features=vpg.features * rows.views,
        prompts=(vpg.prompts + (vpg.prompts_backward if trains_vpg else 0.0)) * rows.views,
        projector=projector * (3 if trains_vpg else 2) * rows.views,
        llm_forward=matrices + attention,
        llm_backward=matrices - idle + ATTENTION_BACKWARD * attention,
        head=2 * head,
    )

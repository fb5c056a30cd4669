"""What it costs that the source describes images: its VPG once an image, its language model once a caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.planning.cost.flops import Flops, VPGWork
from vpgtrans_core.planning.cost.shapes import LLMShape
from vpgtrans_core.recipes.captions import captions_each

if TYPE_CHECKING:
    from vpgtrans_core.planning.parts import Plan

SLOWER = 10.0
"""How much smaller a share of the peak sampling reaches than training: every token reads all weights. A guess."""


def described(plan: Plan) -> tuple[int, int]:
    """How many images the source describes, and with how many captions each; 0 and 0 where it describes none."""
    images = plan.data.described_images if plan.data else 0
    each = captions_each(plan.settings.captions) if plan.settings.caption_temperature else 1
    return (images, each) if images and plan.source_llm else (0, 0)


def describing_flops(plan: Plan, work: VPGWork, tokens: float) -> Flops:
    """FLOPs of describing one image; each of its captions has so many tokens."""
    assert plan.source_llm is not None
    shape: LLMShape = plan.source_llm.shape
    each, prompts = described(plan)[1], plan.vpg.num_prompts
    read = shape.encoder_weights if shape.encoder_decoder else shape.weights
    matrices = 2 * (read * prompts + shape.weights * tokens) * each
    pairs = (prompts + tokens) * (prompts + tokens) / 2 * (shape.layers + shape.encoder_layers) * each
    return Flops(
        features=work.features,
        prompts=work.prompts,
        projector=2.0 * prompts * plan.vpg.output_size * shape.embedding_size,
        llm_forward=matrices + 4 * shape.attention_width * pairs,
        llm_backward=0.0,
        head=2.0 * shape.head_weights * tokens * each,
    )

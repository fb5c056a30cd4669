"""What a run computes besides its steps: the start's look at some images, and the source's own loss. Forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.planning.cost.flops import Flops, VPGWork, image_flops
from vpgtrans_core.planning.cost.rows import RowSizes
from vpgtrans_core.planning.cost.shapes import LLMShape
from vpgtrans_core.sight.cost import PASSES

if TYPE_CHECKING:
    from vpgtrans_core.planning.parts import Plan


def forward_flops(plan: Plan, shape: LLMShape, work: VPGWork, rows: RowSizes) -> Flops:
    """FLOPs of one image's forward pass through the VPG and an LLM of `shape`."""
    vpg = plan.vpg
    flops = image_flops(shape, work, rows, trains_vpg=False, num_prompts=vpg.num_prompts, output_size=vpg.output_size)
    return Flops(flops.features, flops.prompts, flops.projector / 2, flops.llm_forward, 0.0, flops.head / 2)


def start_passes(plan: Plan) -> tuple[float, float]:
    """What the start from words computes at most: images that pass the VPG, and images that pass the LLM, once for
    each spread tried; 0 and 0 where the projector starts otherwise."""
    from vpgtrans_core.start.probe import JUDGED_IMAGES, START_IMAGES
    from vpgtrans_core.start.words import MOST_SPREADS

    if plan.start != "words":
        return 0.0, 0.0
    images = min(START_IMAGES, plan.data.images) if plan.data else START_IMAGES
    return float(images), float(MOST_SPREADS * min(JUDGED_IMAGES, images))


def source_passes(plan: Plan) -> tuple[float, float]:
    """What the source's own loss computes: images that pass the VPG, and images that pass its LLM: with the right
    pictures, with exchanged ones and without any; 0 and 0 where it is not measured."""
    if plan.source_share is None or plan.data is None:
        return 0.0, 0.0
    return float(plan.data.held_out_images), float(PASSES * plan.data.held_out_images)

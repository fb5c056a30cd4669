"""How many captions a step holds where neither settings nor recipe say so: the one rule. Loads no torch.

The paper's batches are made for millions of captions: they leave a few thousand captions ten steps an epoch. So a batch
is at most a hundredth of an epoch, but not below `SMALLEST`, and never above the LLM family's value: the paper's, which
172,800 captions reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vpgtrans_core.settings import stage_settings, stages_of

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import TrainingData
    from vpgtrans_core.run.spec import RunSpec

STEPS_AN_EPOCH = 100
"""Steps that an epoch of few captions has."""
SMALLEST = 16
"""Captions of a step at least. Few captions are better spent on many steps: with SmolLM2-135M 120 steps of 16 end far
lower than 34 of 64, and 240 of 8 no lower (docs/real-llms.md)."""


def with_batch(spec: RunSpec, data: Sequence[TrainingData | None]) -> RunSpec:
    """The same run with the batch size that fits its data, where it is open.

    Args:
        data: of each stage, None where it is not known; the first stage without a batch of its own counts.
    """
    if spec.settings.batch_size is not None:
        return spec
    known = [
        each.train.images * each.train.captions_a_visit(stage_settings(spec.settings, stage).captions_per_image)
        for stage, each in zip(spec.stages, data, strict=False)
        if stage.batch_size is None and each is not None
    ]
    size, rule = batch_size(known[0] if known else None, spec.target.family.batch_size)
    settings = dataclasses.replace(spec.settings, batch_size=size)
    return dataclasses.replace(spec, settings=settings, stages=stages_of(settings), batch_rule=rule)


def batch_size(captions: float | None, most: int) -> tuple[int, str]:
    """Captions a step, and why.

    Args:
        captions: of one epoch; None where they are not known.
        most: the LLM family's value.
    """
    if captions is None or captions >= STEPS_AN_EPOCH * most:
        return most, "the LLM family's value, as in the paper"
    if captions <= STEPS_AN_EPOCH * SMALLEST:
        return min(most, SMALLEST), f"the least, for {captions:,.0f} captions an epoch"
    return min(most, round(captions / STEPS_AN_EPOCH)), f"1 % of an epoch's {captions:,.0f} captions"

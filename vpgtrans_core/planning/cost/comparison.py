"""The paper's runs beside what its code and vpgt's are expected to take."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vpgtrans_core.cards import load
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.models.sizes import card_config
from vpgtrans_core.planning.cost import paper
from vpgtrans_core.planning.cost.flops import VPGWork, image_flops
from vpgtrans_core.planning.cost.rows import TextSize, paper_rows, row_sizes
from vpgtrans_core.planning.cost.shapes import LLMShape, llm_shape
from vpgtrans_core.registry import Registry

CAPTION_TOKENS = 13.0
"""Tokens of a caption, start and end included; COCO's captions have about that many."""


@dataclass(frozen=True)
class Comparison:
    """A run of the paper beside what its code and vpgt's are expected to take on the same GPU (A100-hours).

    `each` is vpgt's work for a caption, on average, where every image has one (FLOPs), and `vit` the ViT's share of it:
    what no batching, overlap or precision of the LLM changes.
    """

    name: str
    pairs: float
    reported: float
    paper_code: float
    ours: float
    implied_mfu: float
    each: float
    vit: float


def paper_code_flops(shape: LLMShape, work: VPGWork, num_prompts: int, output_size: int, trains_vpg: bool) -> float:
    """FLOPs of a caption in the paper's code."""
    rows = paper_rows(TextSize(CAPTION_TOKENS, 1.0), num_prompts, encoder_decoder=shape.encoder_decoder)
    return image_flops(shape, work, rows, trains_vpg=trains_vpg, num_prompts=num_prompts, output_size=output_size).total


@lru_cache(maxsize=8)
def paper_comparisons(registry: Registry, mfu: float) -> tuple[Comparison, ...]:
    """The paper's runs on an A100: what it reports, and what its code and vpgt's are expected to take.

    vpgt's is for one caption an image, as most of the paper's data at scale has.
    """
    comparisons = []
    for run in paper.paper_runs():
        with suppress(VpgtError):  # a plugin is switched off, or another claims the name: nothing to compare with
            comparisons.append(_comparison(run, registry, mfu))
    return tuple(comparisons)


def _comparison(run: paper.PaperRun, registry: Registry, mfu: float) -> Comparison:
    known = registry.llm_card(run.target)
    shape = llm_shape(card_config(known.card, known.family), known.family.adapter)
    source = registry.source(run.source or run.vpg or "")
    config = {"model_type": source.family.model_types[0], **source.card.config}
    work = vpg_work_of(source.family.adapter, as_key(config))
    sizes = load(source.family.adapter).describe(config)
    prompts, width = sizes["num_prompts"], sizes["output_size"]
    pairs = {trains_vpg: run.pairs_of(trains_vpg) for trains_vpg in (False, True)}
    theirs = sum(n * paper_code_flops(shape, work, prompts, width, vpg) for vpg, n in pairs.items())
    rows = row_sizes(
        TextSize(CAPTION_TOKENS, 1.0),
        prompts,
        shape.embedding_size,
        encoder_decoder=shape.encoder_decoder,
        share=True,
    )
    each = {
        vpg: image_flops(shape, work, rows, trains_vpg=vpg, num_prompts=prompts, output_size=width) for vpg in pairs
    }
    ours, vit = (sum(n * getattr(each[vpg], part) for vpg, n in pairs.items()) for part in ("total", "features"))
    a_second = paper.A100_TFLOPS * 1e12 * 3600
    return Comparison(
        name=f"{run.source} -> {run.target}" if run.source else f"{run.target} from scratch",
        pairs=run.pairs,
        reported=run.hours,
        paper_code=theirs / a_second / mfu,
        ours=ours / a_second / mfu,
        implied_mfu=theirs / a_second / run.hours,
        each=ours / sum(pairs.values()),
        vit=vit / ours,
    )


@lru_cache(maxsize=16)
def vpg_work_of(adapter: str, config: str) -> VPGWork:
    """Counted once for each VPG; `config` is JSON."""
    from vpgtrans_core.planning.cost.trace import vpg_work

    return vpg_work(load(adapter), json.loads(config))


def as_key(config: dict[str, Any]) -> str:
    """A config as a key: two are one when they say the same."""
    return json.dumps(config, sort_keys=True, default=str)


def without_llm(config: dict[str, Any]) -> dict[str, Any]:
    """A source's config with nothing of its LLM but the width, which some VPGs have inside, too: sources that differ
    only in the LLM are counted once."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    return {**config, "text_config": {key: text[key] for key in ("model_type", "hidden_size") if key in text}}

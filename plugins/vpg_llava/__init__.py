"""LLaVA's visual prompt generator: a ViT's patches and the first layer of an MLP, whose last layer is the projector."""

from __future__ import annotations

import dataclasses
from typing import Any

from vpg_llava.cards import NEXT_SOURCES, ONEVISION_SOURCES, SOURCES
from vpg_llava.names import HEAD, LLAVA, NEXT, NEXT_PART, ONEVISION, ONEVISION_PART, PART, TRUNK
from vpg_llava.refused import REFUSED
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, SourceCard, VPGFamily

VPGT_API = API_VERSION
TINY: dict[str, Any] = {
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "projector_hidden_size": 24,
}
RESOLUTIONS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
VPGT_CONFORMANCE = {
    "llava": {"config": {"model_type": PART, **TINY}},
    "llava-next": {"config": {"model_type": NEXT_PART, "image_grid_pinpoints": RESOLUTIONS, **TINY}},
    "llava-onevision": {
        "config": {
            "model_type": ONEVISION_PART,
            "image_grid_pinpoints": RESOLUTIONS,
            "vision_config": {**TINY["vision_config"], "model_type": "siglip_vision_model"},
            "projector_hidden_size": 24,
        }
    },
}
"""The sizes of the tiny VPGs that the conformance kit makes."""


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    """Three families: transformers' LLaVA, LLaVA-NeXT and LLaVA-OneVision folders, and ours without the LLM."""
    return [
        dataclasses.replace(_family("llava", (LLAVA, PART), "vpg_llava.adapter:LlavaVPG", SOURCES), refused=REFUSED),
        _family("llava-next", (NEXT, NEXT_PART), "vpg_llava.tiled:LlavaNextVPG", NEXT_SOURCES),
        _family("llava-onevision", (ONEVISION, ONEVISION_PART), "vpg_llava.tiled:LlavaOnevisionVPG", ONEVISION_SOURCES),
    ]


def _family(name: str, types: tuple[str, str], adapter: str, sources: tuple[SourceCard, ...]) -> VPGFamily:
    return VPGFamily(
        name=name,
        model_types=types,
        adapter=adapter,
        sources=sources,
        llm_trunk=TRUNK,
        llm_head=HEAD,
        bos="first",
    )

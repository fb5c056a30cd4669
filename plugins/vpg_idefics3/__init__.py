"""Idefics3's and SmolVLM's visual prompt generator: a ViT and a pixel shuffle, with one linear layer as projector."""

from __future__ import annotations

from vpg_idefics3.cards import SOURCES
from vpg_idefics3.names import HEAD, IDEFICS3, PART, SMOLVLM, TRUNK
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, VPGFamily

VPGT_API = API_VERSION
VPGT_CONFORMANCE = {
    "idefics3": {
        "config": {
            "model_type": PART,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
            },
            "scale_factor": 2,
        }
    }
}
"""The sizes of the tiny VPG that the conformance kit makes."""


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    """One family: transformers' Idefics3 and SmolVLM folders, and our folders without the LLM."""
    return [
        VPGFamily(
            name="idefics3",
            model_types=(IDEFICS3, SMOLVLM, PART),
            adapter="vpg_idefics3.adapter:Idefics3VPG",
            tiles="vpg_idefics3.tiled:TiledIdefics3VPG",
            sources=SOURCES,
            llm_trunk=TRUNK,
            llm_head=HEAD,
            bos="first",
        )
    ]

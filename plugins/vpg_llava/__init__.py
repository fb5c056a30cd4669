"""LLaVA's visual prompt generator: a ViT's patches and the first layer of an MLP, whose last layer is the projector."""

from __future__ import annotations

from vpg_llava.cards import SOURCES
from vpg_llava.names import HEAD, LLAVA, PART, TRUNK
from vpg_llava.refused import REFUSED
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, VPGFamily

VPGT_API = API_VERSION
VPGT_CONFORMANCE = {
    "llava": {
        "config": {
            "model_type": PART,
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
    }
}
"""The sizes of the tiny VPG that the conformance kit makes."""


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    """One family: transformers' LLaVA folders, and our folders without the LLM."""
    return [
        VPGFamily(
            name="llava",
            model_types=(LLAVA, PART),
            adapter="vpg_llava.adapter:LlavaVPG",
            sources=SOURCES,
            llm_trunk=TRUNK,
            llm_head=HEAD,
            bos="first",
            refused=REFUSED,
        )
    ]

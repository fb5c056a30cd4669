"""InternVL's visual prompt generator: a ViT, a pixel shuffle and the first layer of an MLP; its last is the
projector."""

from __future__ import annotations

from vpg_internvl.cards import SOURCES
from vpg_internvl.names import HEAD, INTERNVL, PART, TRUNK
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, VPGFamily

VPGT_API = API_VERSION
VPGT_CONFORMANCE = {
    "internvl": {
        "config": {
            "model_type": PART,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": [28, 28],
                "patch_size": [7, 7],
            },
            "projector_hidden_size": 24,
        }
    }
}
"""The sizes of the tiny VPG that the conformance kit makes."""


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    """One family: transformers' InternVL folders, and our folders without the LLM."""
    return [
        VPGFamily(
            name="internvl",
            model_types=(INTERNVL, PART),
            adapter="vpg_internvl.adapter:InternVLVPG",
            tiles="vpg_internvl.tiled:TiledInternVLVPG",
            sources=SOURCES,
            llm_trunk=TRUNK,
            llm_head=HEAD,
            bos="first",
        )
    ]

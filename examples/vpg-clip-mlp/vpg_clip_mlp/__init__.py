"""LLaVA's visual prompt generator for vpgt: CLIP's ViT, and an MLP whose last layer is the projector."""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import SourceCard, VPGFamily

VPGT_API = 1
PART = "vpgt-clip-mlp"
"""The model_type of a folder without language model."""

VIT_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
SOURCES = (
    SourceCard(
        alias="llava-1.5-7b",
        hub_id="llava-hf/llava-1.5-7b-hf",
        llm="vicuna-7b-v1.5",
        licence="Llama 2 Community License",
        image_size=336,
        config={"model_type": "llava", "vision_config": VIT_L, "output_size": 4096},
    ),
)
TINY = {
    "model_type": PART,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "output_size": 24,
}
VPGT_CONFORMANCE = {
    "clip_mlp": {
        "config": TINY,
        "unsupported": {"whole_model_comes_back": "only the VPG and its projector are written (--save vpg)"},
    }
}


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    adapter = "vpg_clip_mlp.adapter:ClipMLP"
    return [VPGFamily(name="clip_mlp", model_types=("llava", PART), adapter=adapter, sources=SOURCES)]

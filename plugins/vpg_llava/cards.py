"""The trained VL-LLMs that ``--from`` knows by name; sizes and licences as published, not checked."""

from __future__ import annotations

from vpg_llava.names import LLAVA
from vpgtrans_core.cards import SourceCard

VIT_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""CLIP ViT-L/14 at 336 px."""


def _llava(size: str, width: int) -> SourceCard:
    return SourceCard(
        alias=f"llava-1.5-{size}",
        hub_id=f"llava-hf/llava-1.5-{size}-hf",
        llm=f"vicuna-{size}-v1.5",
        licence="Llama 2 Community License (the Vicuna inside)",
        image_size=336,
        config={"model_type": LLAVA, "vision_config": VIT_L, "projector_hidden_size": width},
        note="as published, not checked",
    )


SOURCES = (_llava("7b", 4096), _llava("13b", 5120))

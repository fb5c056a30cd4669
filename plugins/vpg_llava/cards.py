"""The trained VL-LLMs that ``--from`` knows by name; sizes and licences as published, not checked."""

from __future__ import annotations

from typing import Any

from vpg_llava.names import LLAVA, NEXT, ONEVISION
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


VICUNAS = "Llama 2 Community License (the Vicuna inside)"


def _text(
    kind: str, width: int, layers: int, heads: int, kv_heads: int, intermediate: int, words: int
) -> dict[str, Any]:
    """The language model inside."""
    return {
        "model_type": kind,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": words,
    }


def _llava(size: str, width: int) -> SourceCard:
    return SourceCard(
        alias=f"llava-1.5-{size}",
        hub_id=f"llava-hf/llava-1.5-{size}-hf",
        llm=f"vicuna-{size}-v1.5",
        licence=VICUNAS,
        image_size=336,
        config={"model_type": LLAVA, "vision_config": VIT_L, "projector_hidden_size": width},
        note="as published, not checked",
    )


SOURCES = (_llava("7b", 4096), _llava("13b", 5120))
NEXT_SOURCES = tuple(
    SourceCard(
        alias=f"llava-v1.6-{name}",
        hub_id=f"llava-hf/llava-v1.6-{name}-hf",
        llm=llm,
        licence=licence,
        image_size=336,
        config={"model_type": NEXT, "vision_config": VIT_L, **own},
        note="as published, not checked",
    )
    for name, llm, licence, own in (
        ("vicuna-7b", "vicuna-7b-v1.5", VICUNAS, {"projector_hidden_size": 4096}),
        ("vicuna-13b", "vicuna-13b-v1.5", VICUNAS, {"projector_hidden_size": 5120}),
        ("mistral-7b", None, "Apache 2.0", {"text_config": _text("mistral", 4096, 32, 32, 8, 14336, 32064)}),
    )
)
SIGLIP_SO400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
"""SigLIP SO400M/14 at 384 px, without its last layer."""
ONEVISION_SOURCES = tuple(
    SourceCard(
        alias=f"llava-onevision-{size}",
        hub_id=f"llava-hf/llava-onevision-qwen2-{size}-ov-hf",
        llm=None,
        licence="Apache 2.0",
        image_size=384,
        config={"model_type": ONEVISION, "vision_config": SIGLIP_SO400M, "text_config": text},
        note="as published, not checked; one picture at a time",
    )
    for size, text in (
        ("0.5b", _text("qwen2", 896, 24, 14, 2, 4864, 152000)),
        ("7b", _text("qwen2", 3584, 28, 28, 4, 18944, 152128)),
    )
)

"""The trained VL-LLMs that ``--from`` knows by name; sizes and licences as published, not checked."""

from __future__ import annotations

from typing import Any

from vpg_idefics3.names import IDEFICS3, SMOLVLM
from vpgtrans_core.cards import SourceCard

BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
"""SigLIP B/16 at 512 px."""
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""SigLIP SO400M/14 at 384 px."""


def _smollm(width: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": 49280,
    }


def _smolvlm(
    alias: str, hub_id: str, kind: str, vision: dict[str, Any], scale: int, text: dict[str, Any]
) -> SourceCard:
    return SourceCard(
        alias=alias,
        hub_id=hub_id,
        llm=None,
        licence="Apache 2.0",
        image_size=vision["image_size"],
        config={"model_type": kind, "vision_config": vision, "scale_factor": scale, "text_config": text},
        note="as published, not checked",
    )


SOURCES = (
    _smolvlm("smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", IDEFICS3, BASE, 4, _smollm(576, 30, 9, 3, 1536)),
    _smolvlm("smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", IDEFICS3, BASE, 4, _smollm(960, 32, 15, 5, 2560)),
    _smolvlm(
        "smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", SMOLVLM, SO400M, 3, _smollm(2048, 24, 32, 32, 8192)
    ),
)

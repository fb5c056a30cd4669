"""The trained VL-LLMs that ``--from`` knows by name; sizes and licences as published, not checked."""

from __future__ import annotations

from vpg_internvl.names import INTERNVL
from vpgtrans_core.cards import SourceCard

INTERNVIT_300M = {
    "model_type": "internvl_vision",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "attention_bias": True,
    "image_size": [448, 448],
    "patch_size": [14, 14],
}
"""InternViT-300M/14 at 448 px."""


def _internvl3(size: str, width: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> SourceCard:
    text = {
        "model_type": "qwen2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": 151674,
    }
    return SourceCard(
        alias=f"internvl3-{size}",
        hub_id=f"OpenGVLab/InternVL3-{size.upper()}-hf",
        llm=None,
        licence="MIT (the Qwen2.5 inside: Apache 2.0)",
        image_size=448,
        config={
            "model_type": INTERNVL,
            "vision_config": INTERNVIT_300M,
            "downsample_ratio": 0.5,
            "text_config": text,
        },
        note="as published, not checked; one tile a picture",
    )


SOURCES = (
    _internvl3("1b", 896, 24, 14, 2, 4864),
    _internvl3("2b", 1536, 28, 12, 2, 8960),
    _internvl3("8b", 3584, 28, 28, 4, 18944),
    _internvl3("14b", 5120, 48, 40, 8, 13824),
)

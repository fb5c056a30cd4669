"""BLIP-2's visual prompt generator: a frozen ViT and a Q-Former, through transformers' own classes."""

from __future__ import annotations

from vpg_qformer.cards import SOURCES
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import API_VERSION, Command, VPGFamily

VPGT_API = API_VERSION
TINY_QFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "encoder_hidden_size": 24,
}
TINY_VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
VPGT_CONFORMANCE = {
    "qformer": {
        "config": {
            "model_type": "blip-2",
            "num_query_tokens": 4,
            "vision_config": TINY_VISION,
            "qformer_config": TINY_QFORMER,
        }
    },
    "qformer-tower": {
        "config": {
            "model_type": "vpgt-vpg-tower",
            "vpg_family": "qformer-tower",
            "num_query_tokens": 4,
            "vision_config": {**TINY_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
            "qformer_config": TINY_QFORMER,
        },
        "unsupported": {
            "whole_model_comes_back": "transformers has no class for a Q-Former in front of other towers than BLIP-2's"
        },
    },
}
"""The sizes of the tiny VPGs that the conformance kit makes."""


@hookimpl
def vpgt_vpg_families() -> list[VPGFamily]:
    """Two families: transformers' BLIP-2 folders and ours without the LLM; and ours with another vision tower."""
    return [
        VPGFamily(
            name="qformer",
            model_types=("blip-2", "vpgt-vpg"),
            adapter="vpg_qformer.adapter:QFormerVPG",
            sources=SOURCES,
            pretraining="vpg_qformer.pretraining:QFormerPretraining",
        ),
        VPGFamily(name="qformer-tower", model_types=("vpgt-vpg-tower",), adapter="vpg_qformer.tower:TowerVPG"),
    ]


@hookimpl
def vpgt_commands() -> list[Command]:
    """The paper's checkpoints in; `vpgt export` writes them, too."""
    return [
        Command("import", "vpg_qformer.cli:import_", "Make a model folder of a checkpoint of the paper's code (.pth)."),
    ]

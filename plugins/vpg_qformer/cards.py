"""The trained VL-LLMs that ``--from`` knows by name."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.cards import SourceCard

_MINIATURE = "vpgtrans_core.miniature:zoo/"
_MINIATURE_DATA = "vpgtrans_core.miniature.listing:training"
_WITH_OPT = "MIT (hub card); the OPT inside: Meta's research licence, not for commercial use"
_WITH_T5 = "MIT (hub card); the FlanT5 inside: Apache-2.0"


def _vit_g(image_size: int = 224) -> dict[str, Any]:
    """BLIP-2's sizes: EVA-CLIP ViT-g without its last layer, and a BERT-base shaped Q-Former."""
    return {
        "model_type": "blip-2",
        "num_query_tokens": 32,
        "vision_config": {
            "hidden_size": 1408,
            "intermediate_size": 6144,
            "num_hidden_layers": 39,
            "num_attention_heads": 16,
            "image_size": image_size,
            "patch_size": 14,
        },
        "qformer_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "cross_attention_frequency": 2,
            "encoder_hidden_size": 1408,
        },
    }


def _blip2(llm: str, licence: str) -> SourceCard:
    return SourceCard(
        alias=f"blip2-{llm}",
        hub_id=f"Salesforce/blip2-{llm}",
        llm=llm,
        licence=licence,
        pretrained="blip2-pretrained",
        config=_vit_g(),
    )


def _coco(llm: str, licence: str) -> SourceCard:
    """A source that was tuned on COCO captions at 364 px; listed after the plain ones, which an LLM's alias means."""
    return SourceCard(
        alias=f"blip2-{llm}-coco",
        hub_id=f"Salesforce/blip2-{llm}-coco",
        llm=llm,
        licence=licence,
        image_size=364,
        config=_vit_g(364),
        note="tuned on COCO captions",
    )


SOURCES = (
    _blip2("opt-2.7b", _WITH_OPT),
    _blip2("opt-6.7b", _WITH_OPT),
    _blip2("flan-t5-xl", _WITH_T5),
    _blip2("flan-t5-xxl", _WITH_T5),
    _coco("opt-2.7b", _WITH_OPT),
    _coco("opt-6.7b", _WITH_OPT),
    _coco("flan-t5-xl", _WITH_T5),
    SourceCard(
        alias="blip2-pretrained",
        hub_id="Salesforce/blip2-itm-vit-g",
        llm=None,
        licence="MIT (hub card)",
        config=_vit_g(),
        note="ViT-g and Q-Former as BLIP-2's first stage left them, before any LLM",
    ),
    SourceCard(
        alias="blip2-opt-mini-s",
        hub_id="",
        llm="opt-mini-s",
        licence="Apache-2.0",
        image_size=48,
        pretrained="vpg-mini",
        bundled=_MINIATURE + "blip2-opt-mini-s",
        note="the miniature's source",
        data=_MINIATURE_DATA,
        recipe="miniature",
    ),
    SourceCard(
        alias="vpg-mini",
        hub_id="",
        llm=None,
        licence="Apache-2.0",
        image_size=48,
        bundled=_MINIATURE + "vpg-mini",
        note="the miniature's ViT and Q-Former before any LLM",
        data=_MINIATURE_DATA,
        recipe="miniature",
    ),
)

"""The FlanT5 models: sizes as in their published configs."""

from __future__ import annotations

from vpgtrans_core.cards import FACTS, LLMCard

ROWS = 32128
"""Rows of the embedding table; the tokenizer knows 32,100 tokens."""


def _card(size: str, parameters: int, hidden: int, layers: int, heads: int, intermediate: int) -> LLMCard:
    return LLMCard(
        alias=f"flan-t5-{size}",
        hub_id=f"google/flan-t5-{size}",
        parameters=parameters,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        intermediate_size=intermediate,
        vocab_size=ROWS,
        licence="Apache-2.0",
        end_token=1,
        checked=FACTS if hidden == 512 else FACTS[1:],
        config={"d_kv": 64, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        note=f"{layers} blocks in the encoder and {layers} in the decoder",
    )


CARDS = (
    _card("small", 76_961_152, 512, 8, 6, 1024),
    _card("base", 247_577_856, 768, 12, 12, 2048),
    _card("large", 783_150_080, 1024, 24, 16, 2816),
    _card("xl", 2_849_757_184, 2048, 24, 32, 5120),
    _card("xxl", 11_135_332_352, 4096, 24, 64, 10240),
    LLMCard(
        alias="t5-mini",
        hub_id="",
        parameters=356_416,
        hidden_size=80,
        layers=2,
        heads=4,
        intermediate_size=192,
        vocab_size=216,
        licence="Apache-2.0",
        end_token=1,
        checked=("end_token",),
        config={
            "d_kv": 20,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_max_distance": 64,
        },
        bundled="vpgtrans_core.miniature:zoo/t5-mini",
        note="the miniature world's",
    ),
)

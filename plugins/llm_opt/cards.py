"""The OPT models: sizes as in their published configs."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.cards import FACTS, LLMCard

LICENCE = "OPT-175B licence (research only)"
ROWS = 50272
"""Rows of the embedding table; the tokenizer knows 50,265 tokens and ``<image>`` takes the first spare row."""


def _card(
    size: str,
    parameters: int,
    hidden: int,
    layers: int,
    heads: int,
    config: dict[str, Any] | None = None,
    note: str = "",
) -> LLMCard:
    return LLMCard(
        alias=f"opt-{size}",
        hub_id=f"facebook/opt-{size}",
        parameters=parameters,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        intermediate_size=4 * hidden,
        vocab_size=ROWS,
        licence=LICENCE,
        end_token=2,
        checked=FACTS if hidden == 768 else FACTS[1:],
        config={"word_embed_proj_dim": hidden, **(config or {})},
        note=note,
    )


def _mini(alias: str, parameters: int, hidden: int, layers: int) -> LLMCard:
    return LLMCard(
        alias=alias,
        hub_id="",
        parameters=parameters,
        hidden_size=hidden,
        layers=layers,
        heads=4,
        intermediate_size=4 * hidden,
        vocab_size=752,
        licence="Apache-2.0",
        end_token=2,
        checked=("end_token",),
        config={"word_embed_proj_dim": hidden, "max_position_embeddings": 128},
        bundled=f"vpgtrans_core.miniature:zoo/{alias}",
        note="the miniature world's",
    )


CARDS = (
    _card("125m", 125_239_296, 768, 12, 12),
    _card(
        "350m",
        331_196_416,
        1024,
        24,
        16,
        config={"word_embed_proj_dim": 512, "do_layer_norm_before": False},
        note="512-wide word embeddings behind a projection to 1024, layer norm after each block",
    ),
    _card("1.3b", 1_315_758_080, 2048, 24, 32),
    _card("2.7b", 2_651_596_800, 2560, 32, 32),
    _card("6.7b", 6_658_473_984, 4096, 32, 32),
    _card("13b", 12_853_473_280, 5120, 40, 40),
    _card("30b", 29_974_540_288, 7168, 48, 56),
    _card("66b", 65_719_701_504, 9216, 64, 72),
    _mini("opt-mini-s", 156_544, 64, 2),
    _mini("opt-mini-l", 707_968, 128, 3),
)

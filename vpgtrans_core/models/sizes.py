"""Sizes in a model's config: looked up, made of a card, and bounded before anything is allocated. Loads no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMCard, LLMFamily
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import CONFIG, read_json

BOUNDS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(num_(hidden_|decoder_)?|n_|encoder_|decoder_)layers?"), 2_000),
    (re.compile(r"(hidden|intermediate|embedding)_size|d_model|d_ff|d_kv|n_embd|n_inner|dim|(ffn|head)_dim"), 1 << 18),
    (re.compile(r"(encoder|decoder)_ffn_dim|word_embed_proj_dim|image_size|patch_size"), 1 << 18),
    (re.compile(r"(num_(attention_|key_value_)?|n_)heads?|num_query_tokens|num_(local_)?experts"), 1 << 16),
    (re.compile(r"vocab_size"), 1 << 24),
)
"""Fields of a config and the largest value that any model could have; the largest published are a tenth of it."""
DEPTH = 8
"""Configs within configs that are looked at: text, vision and Q-Former lie one or two deep."""


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json`` whose sizes a model could have.

    Raises:
        ModelError: it cannot be read, or says sizes that no model has; all of them are listed.
    """
    config = read_json(path)
    if absurd := list(_absurd(config, "", DEPTH)):
        raise ModelError(
            f"{path} states sizes that no model has: {'; '.join(absurd[:8])}",
            "correct it, or get the file from the model's owner again",
        )
    return config


def _absurd(config: dict[str, Any], inside: str, depth: int) -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict) and depth:
            yield from _absurd(value, f"{inside}{name}.", depth - 1)
        most = next((bound for pattern, bound in BOUNDS if pattern.fullmatch(name)), None)
        values = value if isinstance(value, list) else [value]  # some models have a size for each layer
        if most is not None and value is not None and not all(_is_size(v, most) for v in values):
            yield f"{inside}{name} is {json.dumps(value)[:60]}, not a whole number from 0 to {most}"


def _is_size(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def card_config(card: LLMCard, family: LLMFamily) -> dict[str, Any]:
    """A transformers config of a card's sizes, for planning without the hub.

    Families write some sizes under names of their own; each config class takes those that it knows.
    """
    sizes = {
        "model_type": family.model_types[0],
        "vocab_size": card.vocab_size,
        "hidden_size": card.hidden_size,
        "d_model": card.hidden_size,
        "num_hidden_layers": card.layers,
        "num_layers": card.layers,
        "num_decoder_layers": card.layers,
        "num_attention_heads": card.heads,
        "num_heads": card.heads,
        "intermediate_size": card.intermediate_size,
        "ffn_dim": card.intermediate_size,
        "d_ff": card.intermediate_size,
    }
    if card.kv_heads:
        sizes["num_key_value_heads"] = card.kv_heads
    return {**sizes, **card.config}


def config_size(config: dict[str, Any], *names: str) -> int:
    """The first of these fields in a config.

    Raises:
        ModelError: none of them is there as a whole number above 0.
    """
    for name in names:
        if isinstance(value := config.get(name), int) and value > 0:
            return value
    raise ModelError(f"the model's {CONFIG} (model_type {config.get('model_type')!r}) states no {' or '.join(names)}")

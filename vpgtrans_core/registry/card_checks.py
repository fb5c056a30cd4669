"""Checks of what plugins and users' card files describe, so that a wrong card is named before anything uses it."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from vpgtrans_core.validation import check


def card_problems(card: Any) -> list[str]:
    """What is wrong with a card (a dataclass of `cards`), its inner cards included; empty when nothing is."""
    _, problems = check(type(card), {field.name: getattr(card, field.name) for field in fields(card)}, strict=True)
    for field in fields(card):
        value = getattr(card, field.name)
        if isinstance(value, tuple) and value and is_dataclass(value[0]) and not isinstance(value[0], type):
            problems += [f"{field.name}: {p}" for inner in value if is_dataclass(inner) for p in card_problems(inner)]
    return [f"{_title(card)}: {p}" for p in problems]


def make_card(cls: type, values: dict[str, Any]) -> tuple[Any, list[str]]:
    """Make a card of plain values from a file; return it (None when it cannot be made) and all problems."""
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    good, problems = check(cls, values, kind="field")
    problems += [f"field {name!r} is missing" for name in sorted(required - set(values))]
    return (None if problems else cls(**good)), problems


def _title(card: Any) -> str:
    name = getattr(card, "name", None) or getattr(card, "alias", None)
    return f"{type(card).__name__} {name!r}" if isinstance(name, str) else type(card).__name__

"""Texts from outside that go to a terminal: without control characters, which could move its cursor or hide a line."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Everything that is not printed but the line break, and what reverses the direction of a text."""


def printable(text: str) -> str:
    """A text for a terminal, its control characters written out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def control_problems(card: Any) -> list[str]:
    """The fields of a card, inner cards included, whose texts hold control characters."""
    problems = []
    for name in (field.name for field in fields(card)):
        value = getattr(card, name)
        for item in value if isinstance(value, tuple) else (value,):
            if is_dataclass(item):
                problems += control_problems(item)
            elif isinstance(item, str) and _CONTROL.search(item):
                problems.append(f"{type(card).__name__}: {name} holds control characters: {item[:60]!r}")
    return problems

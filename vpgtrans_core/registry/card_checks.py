"""Checks of what plugins and users' card files describe, so that a wrong card is named before anything uses it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from vpgtrans_core.cards import BOS_ORDERS
from vpgtrans_core.errors import did_you_mean
from vpgtrans_core.recipes.lists import RECIPES

_TARGET = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")
_NAME = re.compile(r"[^\s:/\\]+")
_TARGET_FIELDS = ("adapter", "reader", "target", "data")
_NAME_FIELDS = ("name", "alias")
_HALVES = ("float16", "bfloat16")
_CHOICES = {"half": _HALVES, "recipe": tuple(RECIPES), "bos": BOS_ORDERS}


def card_problems(card: Any) -> list[str]:
    """What is wrong with a card (a dataclass of `cards`), its inner cards included; empty when nothing is."""
    problems = []
    for name, hint in _hints(type(card)).items():  # type: ignore[arg-type]
        value = getattr(card, name)
        if problem := _value_problem(name, value, hint):
            problems.append(problem)
        elif isinstance(value, tuple) and value and hasattr(value[0], "__dataclass_fields__"):
            problems += [f"{name}: {p}" for inner in value for p in card_problems(inner)]
    return [f"{_title(card)}: {p}" for p in problems]


def make_card(cls: type, values: dict[str, Any]) -> tuple[Any, list[str]]:
    """Make a card of plain values from a file; return it (None when it cannot be made) and all problems."""
    hints = _hints(cls)  # type: ignore[arg-type]
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}  # files know no tuples
    problems = [f"unknown field {k!r}{_guess(str(k), hints)}" for k in values if k not in hints]
    problems += [f"field {k!r} is missing" for k in sorted(required - set(values))]
    problems += [p for k, v in values.items() if k in hints and (p := _value_problem(k, v, hints[k]))]
    return (None if problems else cls(**values)), problems


def _guess(name: str, known: Iterable[str]) -> str:
    guess = did_you_mean(name, known)
    return f"; {guess}" if guess else ""


def _value_problem(name: str, value: Any, hint: Any) -> str:
    if not _fits(value, hint):
        return f"{name} must be {_words(hint)}, not {value!r}"
    problem = _meaning_problem(name, value)
    return f"{name} {problem}, not {value!r}" if problem else ""


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, h) for h in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if hint is type(None):
        return value is None
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(h) for h in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a tuple of {getattr(get_args(hint)[0], '__name__', get_args(hint)[0])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _meaning_problem(name: str, value: Any) -> str:
    if name in _TARGET_FIELDS and not _TARGET.fullmatch(value) and not (name == "data" and not value):
        return "must be written as 'package.module:Object'"
    if name in _NAME_FIELDS and not _NAME.fullmatch(value):
        return "must be a name without spaces, colons and slashes"
    if name == "model_types" and not value:
        return "must name at least one of transformers' model types"
    if value is not None and value not in _CHOICES.get(name, (value,)):
        return f"must be one of {', '.join(_CHOICES[name])}"
    if type(value) is int and value <= 0:
        return "must be above 0"
    return ""


def _title(card: Any) -> str:
    name = getattr(card, "name", None) or getattr(card, "alias", None)
    return f"{type(card).__name__} {name!r}" if isinstance(name, str) else type(card).__name__

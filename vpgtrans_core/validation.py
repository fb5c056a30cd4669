"""Check plain values against the fields of a dataclass: types, bounds and choices, all problems at once.

A dataclass says what a field may hold where it declares it: ``Annotated[int, Gt(0)]`` with the bounds of
`annotated_types`, ``Literal["adamw", "muon"]``, ``int | None``. pydantic checks the values; it is imported on first
use, because most commands check none.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from vpgtrans_core.errors import did_you_mean

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
}
"""What a field must be, by the type of pydantic's error."""
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
"""Where pydantic's error keeps the bound, and how it reads."""
SHOWN = 60
"""How much of a wrong value is shown."""


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A mark for ``Annotated[str, Pattern(...)]``: the whole text must match.

    Attributes:
        regex: a regular expression.
        words: what such a text is, after "must be".
    """

    regex: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._matched, handler(source))

    def _matched(self, text: str) -> str:
        from pydantic_core import PydanticCustomError

        if not re.fullmatch(self.regex, text):
            raise PydanticCustomError("pattern", "must be {words}", {"words": self.words})  # type: ignore[misc]
        return text


def check(
    cls: type,
    values: Mapping[str, Any],
    *,
    kind: str = "setting",
    leave_out: tuple[str, ...] = (),
    strict: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Check `values` against the fields of the dataclass `cls`; fields may be missing.

    What yaml, json and Python callers write is accepted: a list for a tuple, a single value for a tuple of one,
    ``1e-4`` as text for a number, a `Path` for text. ``true`` is not a number. With `strict` nothing is converted.

    Args:
        cls: a dataclass.
        values: by field name; ``-`` may stand for ``_``.
        kind: what a field is called in messages.
        leave_out: fields that may not be given.
        strict: whether values must have the fields' own types, as the values of an instance must.

    Returns:
        the converted values, without the wrong ones; and a sentence for each problem.
    """
    names = [field.name for field in dataclasses.fields(cls) if field.name not in leave_out]
    good: dict[str, Any] = {}
    problems = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names:
            guess = did_you_mean(name, names)
            problems.append(f"unknown {kind} {key!r}" + (f"; {guess}" if guess else ""))
        elif name in good:
            problems.append(f"{name}: given twice")
        else:
            good[name], wrong = _field(cls, name, strict)(value)
            problems += [f"{name}: {problem}" for problem in wrong]
    return good, problems


def misfits(shape: Any, value: Any) -> list[str]:
    """What in a value read from json does not have `shape` (a type, often a TypedDict): a sentence for each place.

    Nothing is converted; keys that the shape does not name may hold anything.
    """
    from pydantic import TypeAdapter, ValidationError

    with _without_pydantic_plugins():
        adapter = TypeAdapter(shape)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [_place(one) for one in error.errors(include_url=False)]
    return []


def _place(error: Any) -> str:
    at = ".".join(map(str, error["loc"]))
    if error["type"] in ("missing", "extra_forbidden"):
        return f"{at} is missing" if error["type"] == "missing" else f"{at} is unknown"
    return f"{at}: {_sentence({**error, 'input': _brief(error)}, False)}"


def _brief(error: Any) -> Any:
    """The wrong value, or of a large one its beginning."""
    text = repr(error["input"])
    return error["input"] if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _field(cls: type, name: str, strict: bool) -> Callable[[Any], tuple[Any, list[str]]]:
    """A function that checks one field of a dataclass: it returns the converted value and its problems."""
    from pydantic import TypeAdapter, ValidationError

    hint = get_type_hints(cls, include_extras=True)[name]
    with _without_pydantic_plugins():
        adapter = TypeAdapter(hint if strict else _lenient(hint))

    def checked(value: Any) -> tuple[Any, list[str]]:
        try:
            return adapter.validate_python(value, strict=True), []
        except ValidationError as error:
            return None, list(dict.fromkeys(_sentence(one, strict) for one in error.errors(include_url=False)))

    return checked


@contextmanager
def _without_pydantic_plugins() -> Iterator[None]:
    """pydantic reads the metadata of all installed distributions for plugins of its own, and fails at damaged ones."""
    before = os.environ.get("PYDANTIC_DISABLE_PLUGINS")
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYDANTIC_DISABLE_PLUGINS"]
        else:
            os.environ["PYDANTIC_DISABLE_PLUGINS"] = before


def _sentence(error: Any, strict: bool) -> str:
    """One of pydantic's errors as a sentence."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        guess = did_you_mean(str(value), choices)
        return f"must be one of {', '.join(choices)}, not {value!r}" + (f"; {guess}" if guess else "")
    if kind == "greater_than_equal" and not context["ge"]:
        return f"must not be negative, not {value!r}"
    if kind in BOUNDS:
        name, word = BOUNDS[kind]
        return f"must be {word} {context[name]:g}, not {value!r}"
    if kind == "too_short":
        return "must not be empty"
    if strict and kind == "tuple_type":
        return f"must be a tuple, not {value!r}"
    return f"must be {EXPECTED[kind]}, not {value!r}" if kind in EXPECTED else f"{error['msg']}, not {value!r}"


def _lenient(hint: Any) -> Any:
    """`hint` with the conversions that `check` promises, for pydantic's strict mode."""
    from pydantic import AllowInfNan, BeforeValidator

    origin, arguments = get_origin(hint), get_args(hint)
    if hint is float:
        return Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
    if hint is str:
        return Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
    if origin is Annotated:
        return Annotated[_lenient(arguments[0]), *arguments[1:]]
    if origin in (Union, UnionType):
        return reduce(or_, map(_lenient, arguments))
    if origin is tuple:
        return Annotated[GenericAlias(tuple, (_lenient(arguments[0]), ...)), BeforeValidator(_items)]
    return hint


def _number(value: Any) -> Any:
    """The number that a text spells: yaml reads ``1e-4`` as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _items(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, (tuple, Mapping)) else (value,)

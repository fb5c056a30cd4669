"""Plain values against a dataclass's fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from vpgtrans_core.validation import check


@dataclass(frozen=True)
class Kettle:
    litres: Annotated[float, Gt(0), Le(2)] = 1.0
    cups: Annotated[int, Ge(2), Lt(9)] = 4
    colour: Literal["red", "blue"] | None = None
    names: tuple[str, ...] = ()
    on: bool = False
    folder: str = ""
    sizes: tuple[Annotated[float, Ge(0)], ...] | None = None


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("litres", "1e-1", 0.1),
        ("litres", 1, 1.0),
        ("colour", None, None),
        ("colour", "red", "red"),
        ("names", ["a", "b"], ("a", "b")),
        ("names", "a", ("a",)),
        ("folder", Path("/a"), "/a"),
        ("sizes", [1, "2.5"], (1.0, 2.5)),
        ("sizes", 3, (3.0,)),
        ("sizes", None, None),
    ],
)
def test_what_is_taken(name: str, given: Any, expected: Any) -> None:
    good, problems = check(Kettle, {name: given})
    assert not problems
    assert good == {name: expected} and type(good[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("litres", True, "must be a number, not True"),
        ("litres", "much", "must be a number, not 'much'"),
        ("litres", "nan", "must be a finite number"),
        ("litres", 0, "must be above 0, not 0"),
        ("litres", 3, "must be at most 2, not 3"),
        ("cups", True, "must be a whole number, not True"),
        ("cups", 2.0, "must be a whole number, not 2.0"),
        ("cups", "3", "must be a whole number, not '3'"),
        ("cups", 1, "must be at least 2, not 1"),
        ("cups", 9, "must be below 9, not 9"),
        ("colour", "bleu", "must be one of red, blue, not 'bleu'; did you mean 'blue'?"),
        ("names", [1], "must be text, not 1"),
        ("names", {"a": 1}, "must be a list"),
        ("on", 1, "must be true or false, not 1"),
        ("sizes", [1, -1], "must not be negative, not -1"),
    ],
)
def test_what_is_refused(name: str, given: Any, said: str) -> None:
    _, problems = check(Kettle, {name: given})
    assert len(problems) == 1 and problems[0].startswith(f"{name}: ") and said in problems[0]


def test_all_problems_come_at_once() -> None:
    good, problems = check(Kettle, {"cup": 3, "on": "yes", "folder": "/a", "litres": -1}, leave_out=("names",))
    assert problems[0] == "unknown setting 'cup'; did you mean 'cups'?"
    assert len(problems) == 3 and good["folder"] == "/a"
    assert check(Kettle, {"names": ("a",)}, leave_out=("names",), kind="field")[1] == ["unknown field 'names'"]

"""The items of the setting ``stages``: what a person writes, checked and converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vpgtrans_core.errors import did_you_mean
from vpgtrans_core.recipes.lists import PAPER, THEN, TUNING
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.validation import check

StageItem = int | str | dict[str, Any]
"""What ``stages`` holds: a stage of the recipe by its number or name, or a mapping of a `Stage`'s fields."""


def stage_items(value: Any) -> tuple[tuple[StageItem, ...] | None, list[str]]:
    """The items of ``stages`` with their fields converted, and what is wrong with them."""
    if value is None:
        return None, []
    known = {stage.name: stage.number for stage in PAPER.stages.values()}
    items: list[StageItem] = []
    problems: list[str] = []
    for item in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
        if isinstance(item, Mapping):
            fields, wrong = _stage_fields(item, known)
            items.append(fields)
            problems += wrong
        elif isinstance(item, bool) or item not in (*known, *known.values()):
            guess = did_you_mean(str(item), known) or f"there are {', '.join(f'{n} ({s})' for s, n in known.items())}"
            problems.append(f"stages: unknown stage {item!r}; {guess}; a new one is a mapping in a yaml file")
        else:
            items.append(item)
    return tuple(items), problems


def _stage_fields(item: Mapping[str, Any], known: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """The fields of one mapping in ``stages``; a stage that the recipe does not have must be whole."""
    fields, problems = check(Stage, item, kind="field", leave_out=("number",))
    name = fields.get("name")
    if name not in known:
        given = {str(key).replace("-", "_") for key in item}
        problems += [f"field {key!r} is missing" for key in ("name", "trains", "lr") if key not in given]
    return fields, [f"stage {name!r}: {problem}" if name else f"stages: {problem}" for problem in problems]


def recipe_number(item: StageItem) -> int | None:
    """The recipe's number of a stage, None for a new one."""
    name = item["name"] if isinstance(item, dict) else item
    named = {stage.name: number for number, stage in PAPER.stages.items()} | {name: TUNING for name in THEN}
    return name if isinstance(name, int) else named.get(name)


def whole_stage(item: StageItem, own: Mapping[int, Stage], number: int) -> Stage:
    """One item of ``stages``, complete; `number` is the lowest that it may have."""
    given: dict[str, Any] = item if isinstance(item, dict) else {"name": item}
    for stage in own.values():
        if given["name"] in (stage.number, stage.name):
            stage = replace(stage, number=max(stage.number, number))
            return stage_with(stage, {key: value for key, value in given.items() if key != "name"})
    return stage_with(Stage(number, given["name"], given["trains"], given["lr"]), given)


def stage_with(stage: Stage, values: Mapping[str, Any]) -> Stage:
    """`stage` with other values; what follows from them follows, unless it is given too."""
    more: dict[str, Any] = {}
    if values.get("epochs") is not None:
        more["steps"] = None
    if "optimizer" in values:
        plain = next((own.schedule for own in PAPER.stages.values() if own.name == stage.name), "cosine")
        more["schedule"] = "muon" if values["optimizer"] == "muon" else plain
    return replace(stage, **{**more, **values})

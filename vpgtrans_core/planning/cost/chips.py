"""The GPUs that a plan can be made for: a table that ships with vpgt, and the user's own, which takes precedence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError, did_you_mean
from vpgtrans_core.files import read_yaml

FILE = "chips.yaml"
"""The table's name, here and in the user's settings folder."""
NUMBERS = ("tflops", "memory_gb", "usd_hour", "link_gbs", "host_gbs", "float8_tflops")


@dataclass(frozen=True)
class Chip:
    """One GPU: peak TFLOP/s of dense half-precision matrix products, usable memory in 1e9 bytes, price an hour, and
    1e9 bytes a second from another GPU of the same machine and from main memory; peak TFLOP/s of products in float8, 0
    where vpgt cannot use them."""

    name: str
    title: str
    tflops: float
    memory_gb: float
    usd_hour: float
    link_gbs: float = 16.0
    host_gbs: float = 16.0
    float8_tflops: float = 0.0


def chips(folder: Path | None = None) -> dict[str, Chip]:
    """All known GPUs by name; a ``chips.yaml`` in `folder` adds to them or corrects fields of them.

    Raises:
        ConfigError: a table has unknown fields or values that are not numbers; all are listed.
    """
    table: dict[str, Chip] = {}
    own = folder / FILE if folder else None
    with resources.as_file(resources.files(__package__) / FILE) as shipped:
        _add(table, shipped)
    if own and own.is_file():
        _add(table, own)
    return table


def chip(name: str, table: dict[str, Chip]) -> Chip:
    """Return the GPU of this name.

    Raises:
        ConfigError: it is not in the table.
    """
    key = name.lower().removeprefix("rtx").strip(" -")
    if key not in table:
        hint = did_you_mean(key, table) or f"vpgt knows {', '.join(sorted(table))}"
        raise ConfigError([f"gpu: unknown GPU {name!r}"], f"{hint}; add others to {FILE} in vpgt's settings folder")
    return table[key]


def with_link(known: Chip, link: float | None) -> Chip:
    """The GPU, with another rate between GPUs if one is given.

    Raises:
        ConfigError: it is not above 0.
    """
    if link is not None and link <= 0:
        raise ConfigError([f"link: must be above 0, not {link:g}"])
    return known if link is None else replace(known, link_gbs=link)


def _add(table: dict[str, Chip], path: Path) -> None:
    problems = []
    for name, values in read_yaml(path).items():
        key = str(name).lower()
        known = table.get(key, Chip(key, key, 0, 0, 0))
        if wrong := _problems(values):
            problems += [f"{path}: {key}: {problem}" for problem in wrong]
            continue
        table[key] = replace(known, **values)
        problems += [
            f"{path}: {key}: {field} is missing" for field in ("tflops", "memory_gb") if not getattr(table[key], field)
        ]
    if problems:
        raise ConfigError(problems)


def _problems(values: Any) -> list[str]:
    if not isinstance(values, dict):
        return [f"must be a mapping of title, {', '.join(NUMBERS)}"]
    problems = []
    for field, value in values.items():
        if field == "title":
            problems += [] if isinstance(value, str) else ["title must be text"]
        elif field not in NUMBERS:
            problems.append(f"unknown field {field!r}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            problems.append(f"{field} must be a number, not {value!r}")
    return problems

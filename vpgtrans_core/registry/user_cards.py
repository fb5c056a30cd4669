"""Models as data alone: ``cards.toml`` or ``cards.yaml`` in the user's config folder.

Each ``[[llm]]`` is an `LLMCard` with the name of its family, each ``[[source]]`` a `SourceCard` with that of its VPG
family; the fields are the cards' own::

    [[llm]]
    family = "llama"
    alias = "my-llama-1b"
    hub_id = "me/my-llama-1b"
    parameters = 1_100_000_000
    hidden_size = 2048
    layers = 22
    heads = 32
    intermediate_size = 5632
    vocab_size = 32000
    licence = "apache-2.0"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMCard, LLMFamily, SourceCard, VPGFamily
from vpgtrans_core.errors import ConfigError, VpgtError, did_you_mean
from vpgtrans_core.files import YAML_LIMIT, check_plain, read_bounded, read_yaml
from vpgtrans_core.registry.card_checks import make_card
from vpgtrans_core.registry.printable import control_problems

FILES = ("cards.toml", "cards.yaml", "cards.yml")
_TABLES: dict[str, type] = {"llm": LLMCard, "source": SourceCard}


def user_card_files(folder: Path | None) -> list[Path]:
    """The card files in the user's config folder."""
    return [folder / name for name in FILES if (folder / name).is_file()] if folder else []


def read_user_cards(
    path: Path, llm_family: Callable[[str], LLMFamily], vpg_family: Callable[[str], VPGFamily]
) -> tuple[list[tuple[LLMCard, LLMFamily]], list[tuple[SourceCard, VPGFamily]]]:
    """Read one card file.

    Raises:
        ConfigError: listing all that is wrong in the file; nothing of it is used then.
    """
    tables = _read(path)
    problems = [_unknown_table(path, str(t)) for t in tables if t not in _TABLES]
    found: dict[str, list[tuple[Any, Any]]] = {"llm": [], "source": []}
    finders: dict[str, Callable[[str], Any]] = {"llm": llm_family, "source": vpg_family}
    for table, cls in _TABLES.items():
        rows = tables.get(table, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            problems.append(f"{path.name}: {table} must be a list of cards")
            continue
        for number, row in enumerate(rows, 1):
            card, family, wrong = _one(dict(row), cls, finders[table])
            problems += [f"{path.name}: {table} {number} ({_alias(row)}): {w}" for w in wrong]
            found[table].append((card, family))
    if problems:
        raise ConfigError(problems)
    return found["llm"], found["source"]


def _alias(row: dict[str, Any]) -> str:
    """A card's alias for a message, control characters written out."""
    return repr(str(row.get("alias", "no alias"))[:60])[1:-1]


def _unknown_table(path: Path, name: str) -> str:
    guess = did_you_mean(name, _TABLES) or f"there are {' and '.join(_TABLES)}"
    return f"{path.name}: unknown table {name!r}; {guess}"


def _one(row: dict[str, Any], cls: type, find: Callable[[str], Any]) -> tuple[Any, Any, list[str]]:
    name, family, problems = row.pop("family", None), None, []
    if not isinstance(name, str):
        problems.append("field 'family' is missing")
    else:
        try:
            family = find(name)
        except VpgtError as error:
            problems.append(f"{error.message} ({error.hint})")
    card, wrong = make_card(cls, row)
    return card, family, problems + wrong + (control_problems(card) if card else [])


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".toml":
        return read_yaml(path)
    try:
        content = read_bounded(path, YAML_LIMIT)
        if content is None:
            raise ConfigError([f"{path} is larger than {YAML_LIMIT} bytes, too large for cards"])
        tables = tomllib.loads(content.decode("utf-8"))
        check_plain(tables)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    return tables

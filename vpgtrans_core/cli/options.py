"""Flags from the fields of `Settings`, and settings from a yaml file and flags; flags take precedence."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from vpgtrans_core.files import read_yaml
from vpgtrans_core.recipes.lists import MINIATURE, PAPER, Recipe
from vpgtrans_core.settings import ALIASES, Settings, build

FLAGS = {"source": "from", "target": "to"}
"""Fields whose flag has another name, because ``from`` is a word of Python's."""
LISTED = ("stages", "ratios")
"""Fields whose flag takes several values at once: ``1,2`` or ``"1 2"``."""


def with_settings(
    flag: Callable[[str], str | None] = lambda name: name, *more: type
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each setting; it receives all of them in ``**flags``, None where not given.

    Args:
        flag: the name that a setting has in the command, None for one that it does without.
        more: dataclasses of settings that only this command has.
    """
    return lambda function: _with_settings(function, flag, more)


def _with_settings(
    function: Callable[..., None], flag: Callable[[str], str | None], own_settings: Sequence[type]
) -> Callable[..., None]:
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own]
    more = [_parameter(f, f.name, cls) for cls in own_settings for f in dataclasses.fields(cls)]
    more += [_parameter(f, name, Settings) for f in dataclasses.fields(Settings) if (name := flag(f.name)) is not None]
    parameters = [own[0], *more, *own[1:]]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return function


def settings_from(
    config: Path | None,
    flags: dict[str, Any],
    named: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
) -> Settings:
    """Merge a settings file with the flags that were given; `named` gives settings their full names.

    Raises:
        ConfigError: every problem of both, at once.
    """
    return build(named(given_values(config, flags)))


def given_values(config: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The values of a settings file with the flags that were given laid over them."""
    values: dict[str, Any] = {}
    given = {name: _listed(name, value) for name, value in flags.items() if _is_given(name, value)}
    for key, value in (read_yaml(config) if config else {}).items():
        name = str(key).replace("-", "_")
        if ALIASES.get(name, name) not in given:
            values[key] = value
    return values | given


def _is_given(name: str, value: Any) -> bool:
    """Whether a flag is given. An empty text is one, as a shell's variable that is not set leaves it; only the models'
    names are empty where they are not given."""
    return value not in (None, [], ()) and not (value == "" and name in ("source", "target"))


def _parameter(field: dataclasses.Field[Any], name: str, cls: type) -> inspect.Parameter:
    flag = "--" + FLAGS.get(name, name).replace("_", "-")
    kind, metavar = _flag_type(_hints(cls)[field.name])
    aliases = [f"--{alias.replace('_', '-')}" for alias, name in ALIASES.items() if name == field.name]
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag, *(a for a in aliases if a != flag)]
    option = typer.Option(
        *names,
        help=field.metadata["help"] + _default(field),
        rich_help_panel=field.metadata["group"].capitalize(),
        metavar=metavar,
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of all settings; resolving them takes milliseconds, and several commands have a flag for each."""
    return get_type_hints(cls)


def _flag_type(hint: Any) -> tuple[Any, str | None]:
    """The type that Typer parses and its metavar in the help; choices are checked with all other settings."""
    args = get_args(hint)
    if type(None) in args:
        return _flag_type(next(a for a in args if a is not type(None)))
    if get_origin(hint) is Literal:
        return str, "|".join(map(str, args))
    if get_origin(hint) is tuple:
        return list[str], {int: "INTEGER", float: "FLOAT"}.get(args[0], "TEXT") + " ..."
    return hint, None


def _default(field: dataclasses.Field[Any]) -> str:
    """The default as the help shows it: the recipe's values where the field itself has none."""
    paper, small = (_of_recipe(recipe, field.name) for recipe in (PAPER, MINIATURE))
    if paper is not None and field.default is None and "default" not in field.metadata["help"]:
        return f" Default: paper {_say(paper)}" + (f", miniature {_say(small)}." if small is not None else ".")
    return f" Default: {_say(field.default)}." if field.default not in (None, "", ()) else ""


def _say(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _of_recipe(recipe: Recipe, name: str) -> Any:
    """A recipe's value of the setting `name`, None where it has none."""
    for number, stage in recipe.stages.items():
        if name.startswith(prefix := f"stage{number}_"):
            return getattr(stage, name.removeprefix(prefix))
    return recipe.settings.get(name)


def _listed(name: str, value: Any) -> Any:
    """``["0.1,0.9"]`` and ``["0.1", "0.9"]`` as items; numbers among a run's stages become numbers."""
    if name not in LISTED:
        return value
    parts = [part for item in value for part in item.replace(",", " ").split()]
    return [int(part) if name == "stages" and part.isdecimal() else part for part in parts]

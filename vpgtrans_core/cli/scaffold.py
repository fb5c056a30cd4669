"""``vpgt new-plugin``: write a new plugin that can be installed, registered and tested at once."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from vpgtrans_core import __version__
from vpgtrans_core.cards import API_VERSION
from vpgtrans_core.errors import ConfigError

_PLACES = {
    "common/pyproject.toml": "pyproject.toml",
    "common/test.yml": ".github/workflows/test.yml",
    "{kind}/README.md": "README.md",
    "{kind}/__init__.py": "{package}/__init__.py",
    "{kind}/adapter.py": "{package}/adapter.py",
    "{kind}/test_conformance.py": "tests/test_{package}.py",  # a name of its own: pytest takes each name once
}


class Kind(StrEnum):
    """What a new plugin provides."""

    llm = "llm"
    vpg = "vpg"


def add_to(app: typer.Typer) -> None:
    app.command("new-plugin")(new_plugin)


def new_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name, for instance my-llm.")],
    kind: Annotated[Kind, typer.Option(help="A family of language models or of visual prompt generators.")],
    folder: Annotated[Path, typer.Option("--dir", help="The folder to create the plugin's folder in.")] = Path("."),
    model_type: Annotated[
        str | None, typer.Option(help="For llm: transformers' model_type of the family; default the name.")
    ] = None,
) -> None:
    """Write a new plugin: package, hook, adapter, conformance test, README, CI."""
    made = write_plugin(name, kind.value, folder, model_type)
    print(f"wrote {made}\nnext: pip install -e '{made}[dev]' && vpgt list-plugins && pytest {made}")


def write_plugin(name: str, kind: str, folder: Path, model_type: str | None = None) -> Path:
    """Write the files of a new plugin of `kind` ``"llm"`` or ``"vpg"`` and return their folder.

    Raises:
        ConfigError: the name makes no package name, the folder exists, or cannot be written.
    """
    package = name.lower().replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        raise ConfigError([f"{name!r} makes no Python package name"], "use letters, digits and hyphens, like my-llm")
    home = folder / package.replace("_", "-")
    values = {
        "package": package,
        "distribution": f"vpgt-{package.replace('_', '-')}",
        "class_name": "".join(part.capitalize() for part in package.split("_")),
        "model_type": model_type or package,
        "description": {"llm": f"the {name} language models.", "vpg": f"the {name} visual prompt generator."}[kind],
        "version": __version__,
        "api": str(API_VERSION),
    }
    places = dict(_PLACES) | ({"llm/cards.py": "{package}/cards.py"} if kind == "llm" else {})
    try:
        home.mkdir(parents=True)
        for template, place in places.items():
            _write(template.format(kind=kind), home / place.format(package=package), values)
    except FileExistsError:
        raise ConfigError([f"{home} exists already"], "choose another name or --dir") from None
    except OSError as error:
        raise ConfigError([f"cannot write {home}: {error.strerror}"], "choose another --dir") from error
    return home


def _write(template: str, path: Path, values: dict[str, str]) -> None:
    text = (resources.files("vpgtrans_core.cli") / "new_plugin" / f"{template}.template").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(text).substitute(values), encoding="utf-8")

"""What the user says about plugins: environment variables, then ``~/.config/vpgt/config.yaml``.

| variable                 | key in config.yaml | meaning                                                            |
|--------------------------|--------------------|--------------------------------------------------------------------|
| ``VPGT_DISABLE_PLUGINS`` | ``disable_plugins``| plugins (or distributions) that are not loaded                     |
| ``VPGT_ALLOW_PLUGINS``   | ``allow_plugins``  | when given, only these plugins (or distributions) are loaded       |
| ``VPGT_STRICT``          | ``strict``         | a plugin with a problem ends every command with exit code 3        |
| ``VPGT_TRACE_HOOKS``     | ``trace_hooks``    | every call of a hook is shown on stderr                            |
| ``VPGT_PLUGIN_TIMEOUT``  | ``plugin_timeout`` | seconds that one plugin may take to load (0: no limit; default 20) |
| ``--plugin``             | ``plugins``        | single files that are plugins                                      |

A variable that is set replaces the key. All of this goes for the built-in plugins too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.files import read_yaml
from vpgtrans_core.validation import check

CONFIG_FILE = "config.yaml"
_VARIABLES = {
    "disable_plugins": "VPGT_DISABLE_PLUGINS",
    "allow_plugins": "VPGT_ALLOW_PLUGINS",
    "strict": "VPGT_STRICT",
    "trace_hooks": "VPGT_TRACE_HOOKS",
    "plugin_timeout": "VPGT_PLUGIN_TIMEOUT",
}
_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "": False,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


@dataclass(frozen=True)
class Switches:
    """What the user says about plugins; see the module's table."""

    disable_plugins: tuple[str, ...] = ()
    allow_plugins: tuple[str, ...] | None = None
    strict: bool = False
    trace_hooks: bool = False
    plugin_timeout: Annotated[float, Ge(0)] = 20.0
    plugins: tuple[str, ...] = ()
    folder: Path | None = None
    """The user's config folder, whether it exists or not."""

    def refusal(self, name: str, distribution: str) -> str:
        """Why a plugin is not loaded, or ``""`` when it may be."""
        if hit := {name, distribution} & set(self.disable_plugins):
            return f"disabled by the user ({sorted(hit)[0]})"
        if self.allow_plugins is not None and not {name, distribution} & set(self.allow_plugins):
            return "not among the plugins that the user allows"
        return ""


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's config folder: ``$XDG_CONFIG_HOME/vpgt`` or ``~/.config/vpgt``."""
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "vpgt"


def read_switches(environ: Mapping[str, str] = os.environ) -> Switches:
    """Read the user's config file and the environment.

    Raises:
        ConfigError: every unknown key and every wrong value, at once.
    """
    folder = config_folder(environ)
    path = folder / CONFIG_FILE
    values, problems = _read_file(path) if path.is_file() else ({}, [])
    given = {key: _from_text(key, environ[name]) for key, name in _VARIABLES.items() if name in environ}
    if given:
        good, wrong = check(Switches, given)
        values |= good
        problems += [f"{_VARIABLES[key]}: {problem}" for key, _, problem in (w.partition(": ") for w in wrong)]
    if problems:
        raise ConfigError(problems, f"correct the environment variables or {path}")
    return Switches(**values, folder=folder)


def _read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    values, problems = check(Switches, read_yaml(path), kind="key", leave_out=("folder",))
    values["plugins"] = tuple(str(path.parent / name) for name in values.get("plugins", ()))
    return values, [f"{path}: {problem}" for problem in problems]


def _from_text(key: str, text: str) -> Any:
    """What a variable's text stands for; a text that stands for nothing is returned for the check to refuse."""
    if key in ("disable_plugins", "allow_plugins"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if key == "plugin_timeout" else _WORDS.get(text.lower(), text)

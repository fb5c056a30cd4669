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
from typing import Any

from vpgtrans_core.errors import ConfigError, did_you_mean

CONFIG_FILE = "config.yaml"
_KINDS: dict[str, str] = {
    "disable_plugins": "names",
    "allow_plugins": "names",
    "plugins": "names",
    "strict": "switch",
    "trace_hooks": "switch",
    "plugin_timeout": "seconds",
}
_VARIABLES = {
    "disable_plugins": "VPGT_DISABLE_PLUGINS",
    "allow_plugins": "VPGT_ALLOW_PLUGINS",
    "strict": "VPGT_STRICT",
    "trace_hooks": "VPGT_TRACE_HOOKS",
    "plugin_timeout": "VPGT_PLUGIN_TIMEOUT",
}
_EXPECTED = {"names": "a list of names", "switch": "true or false", "seconds": "a number of seconds, 0 or more"}
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
    plugin_timeout: float = 20.0
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
    for key, variable in _VARIABLES.items():
        if (text := environ.get(variable)) is not None:
            try:
                values[key] = _from_text(_KINDS[key], text)
            except ValueError:
                problems.append(f"{variable} must be {_EXPECTED[_KINDS[key]]}, not {text!r}")
    if problems:
        raise ConfigError(problems, f"correct the environment variables or {path}")
    return Switches(**values, folder=folder)


def _read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    from vpgtrans_core.settings import read_yaml

    values, problems = {}, []
    for key, value in read_yaml(path).items():
        if key not in _KINDS:
            guess = did_you_mean(str(key), _KINDS)
            problems.append(f"{path}: unknown key {key!r}" + (f"; {guess}" if guess else ""))
            continue
        try:
            values[key] = _from_yaml(_KINDS[key], value)
        except ValueError:
            problems.append(f"{path}: {key} must be {_EXPECTED[_KINDS[key]]}, not {value!r}")
    values["plugins"] = tuple(str(path.parent / name) for name in values.get("plugins", ()))
    return values, problems


def _from_yaml(kind: str, value: Any) -> Any:
    if kind == "names" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if kind == "switch" and isinstance(value, bool):
        return value
    if kind == "seconds" and isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise ValueError


def _from_text(kind: str, text: str) -> Any:
    if kind == "names":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind == "switch":
        if text.lower() not in _WORDS:
            raise ValueError
        return _WORDS[text.lower()]
    return _from_yaml("seconds", float(text))

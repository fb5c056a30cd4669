"""Commands of plugins: listed by name and help, imported when they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Any

import typer
from typer.core import TyperCommand

from vpgtrans_core.cards import Command, load
from vpgtrans_core.errors import PluginError
from vpgtrans_core.registry import Provided, Registry


class PluginCommand(TyperCommand):
    """Represents a plugin's command in the list of commands until it is called."""

    def __init__(self, name: str, provided: Provided[Command]) -> None:
        super().__init__(name=name, help=provided.item.help or f"A command of the plugin {provided.plugin}.")
        self.rich_help_panel = "Commands of plugins"
        self.provided = provided

    def load(self) -> Any:
        """Import the command.

        Raises:
            PluginError: it cannot be imported, or is neither a Typer app nor a function.
        """
        target, plugin = self.provided.item.target, self.provided.plugin
        try:
            found = load(target)
        except Exception as error:
            raise PluginError(
                f"the command {self.name!r} of plugin {plugin!r} cannot be loaded from {target}: "
                f"{type(error).__name__}: {error}",
                "update or disable the plugin",
            ) from error
        return _command(found, self.name or "", target)


def plugin_commands(registry: Registry, taken: Container[str]) -> dict[str, PluginCommand]:
    """The plugins' commands by name; one whose name is taken or given twice is called ``plugin:name``."""
    commands = registry.commands()
    times = Counter(p.name for p in commands)
    result = {}
    for provided in commands:
        plain = times[provided.name] == 1 and provided.name not in taken
        name = provided.name if plain else f"{provided.plugin}:{provided.name}"
        result[name] = PluginCommand(name, provided)
    return result


def _command(found: Any, name: str, target: str) -> Any:
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    elif callable(found):
        host = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        host.command(name)(found)
        command = typer.main.get_command(host)
    else:
        raise PluginError(f"{target} is neither a Typer app nor a function: {type(found).__name__}")
    command.name = name
    return command

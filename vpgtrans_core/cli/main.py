"""``vpgt``: all commands, including the plugins', and the one place that shows errors."""

from __future__ import annotations

# isort: off
import vpgtrans_core.cli.first as first

# isort: on
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from vpgtrans_core import __version__
from vpgtrans_core.cli import (
    advise,
    cache,
    captioning,
    chatting,
    check_plugin,
    data,
    doctor,
    evaluating,
    export,
    init_vpg,
    inspecting,
    lab,
    listing,
    plan,
    push,
    scaffold,
    targets,
    template,
    transfer,
    tune,
)
from vpgtrans_core.cli.plugin_commands import PluginCommand, plugin_commands
from vpgtrans_core.errors import PluginError, VpgtError
from vpgtrans_core.files import disk_full
from vpgtrans_core.processes.launching import tell_launcher
from vpgtrans_core.registry import Registry, load_registry, use_registry
from vpgtrans_core.registry.printable import printable

WRONG_INPUT, STRICT, INTERRUPTED = 2, 3, 130
"""Exit codes: wrong input, a plugin with a problem under VPGT_STRICT, Ctrl-C."""
REPORTING = ("list-plugins", "doctor")
"""Commands that report broken plugins, and therefore run in spite of them."""


@dataclass
class State:
    """What the global options say, and the plugins, loaded on first use."""

    files: tuple[str, ...] = ()
    debug: bool = False

    @cached_property
    def registry(self) -> Registry:
        registry = load_registry(self.files)
        use_registry(registry)
        return registry


class StrictPlugins(PluginError):
    """Under VPGT_STRICT: some plugin has a problem."""

    exit_code = STRICT


class Commands(TyperGroup):
    """The built-in commands and the plugins'; a plugin's code is imported when its command is called."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*super().list_commands(ctx), *self._of_plugins(ctx)]

    def get_command(self, ctx: typer.Context, name: str) -> Any:  # type: ignore[override]
        return super().get_command(ctx, name) or self._of_plugins(ctx).get(name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        name, command, rest = super().resolve_command(ctx, args)
        if name not in REPORTING:
            check_plugins(ctx.ensure_object(State).registry)
        return name, command.load() if isinstance(command, PluginCommand) else command, rest

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            print(str(stop) or "interrupted", file=sys.stderr)
            raise typer.Exit(getattr(stop, "exit_code", INTERRUPTED)) from None

    def _of_plugins(self, ctx: typer.Context) -> dict[str, PluginCommand]:
        return plugin_commands(ctx.ensure_object(State).registry, taken=self.commands)


def check_plugins(registry: Registry) -> None:
    """Check plugins before a command that does not report them: those named as files must work, under VPGT_STRICT all.

    Raises:
        PluginError: one does not.
    """
    for record in registry.records:
        if record.timed_out:
            hint = f"VPGT_DISABLE_PLUGINS={record.name} leaves it out"
            print(f"warning: {record.title} is {record.status}: {record.cause}; {hint}", file=sys.stderr)
    registry.require_files()
    if registry.switches.strict and (problems := registry.problems()):
        raise StrictPlugins(
            "\n".join(["VPGT_STRICT is on and plugins have problems:", *(f"  - {p}" for p in problems)])
        )


app = typer.Typer(
    name="vpgt",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give a new language model eyes: transfer a trained visual prompt generator (VPGTrans).",
)
transfer.add_to(app)
tune.add_to(app)
init_vpg.add_to(app)
plan.add_to(app)
captioning.add_to(app)
chatting.add_to(app)
template.add_to(app)
inspecting.add_to(app)
evaluating.add_to(app)
advise.add_to(app)
lab.add_to(app)
push.add_to(app)
listing.add_to(app)
targets.add_to(app)
export.add_to(app)
doctor.add_to(app)
scaffold.add_to(app)
cache.add_to(app)
data.add_to(app)
check_plugin.add_to(app)


def _note_files(ctx: typer.Context, files: list[str] | None) -> None:
    ctx.ensure_object(State).files = tuple(files or ())


def _note_debug(ctx: typer.Context, debug: bool) -> None:
    ctx.ensure_object(State).debug = debug


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vpgt {__version__}")
        raise typer.Exit()


@app.callback()
def global_options(
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE.py", callback=_note_files, is_eager=True, help="A single-file plugin; repeatable."),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", callback=_note_debug, is_eager=True, help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 (a bug), 2 (wrong input), 3 (strict), 128 + signal."""
    state = State()
    try:
        with first.signals_raise():
            app(args=arguments, prog_name="vpgt", obj=state)
    except VpgtError as error:
        _end_with(error, state)
    except Exception as error:
        if (full := disk_full(error)) is None:
            raise  # a bug keeps its traceback
        _end_with(full, state)


def _end_with(error: VpgtError, state: State) -> NoReturn:
    show_error(error, debug=state.debug)
    tell_launcher(error, os.environ)
    sys.exit(getattr(error, "exit_code", WRONG_INPUT))


def show_error(error: VpgtError, *, debug: bool = False) -> None:
    """Print ``error:`` and ``hint:`` on stderr, after the traceback if the user asked for it. An error that all
    processes meet is shown by one of each machine."""
    if error.in_every_process and os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if debug:
        traceback.print_exception(error)
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f" (process {rank})"
    print(f"error{process}: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint{process}: {printable(error.hint)}", file=sys.stderr)


if __name__ == "__main__":
    main()

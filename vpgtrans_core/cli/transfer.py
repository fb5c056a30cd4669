"""``vpgt transfer``: give an LLM the visual prompt generator of a trained VL-LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.options import settings_from, with_settings
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import Settings

PANEL = "This command"


def add_to(app: typer.Typer) -> None:
    app.command("transfer")(transfer)


@with_settings()
def transfer(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", rich_help_panel=PANEL, help="Settings file; flags take precedence over it."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=PANEL, help="Show the plan and the shapes without loading weights."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=PANEL, help="Print the result as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", rich_help_panel=PANEL, help="Print only warnings and errors.")
    ] = False,
    **flags: Any,
) -> None:
    """Transfer the visual prompt generator of a trained VL-LLM to another frozen language model."""
    settings = settings_from(config, flags)
    require_models(settings)
    run_or_plan(ctx, settings, dry_run, as_json, quiet)


def run_or_plan(ctx: typer.Context, settings: Settings, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Run with progress on the terminal, or show the plan."""
    if dry_run:
        show_plan(ctx, settings, as_json)
        return
    from vpgtrans_core.cli.progress import Reporter
    from vpgtrans_core.run.pipeline import transfer as run

    with Reporter(quiet=quiet) as reporter:
        ctx.obj.registry.on_warning = reporter.warning
        result = run(settings, reporter=reporter, registry=ctx.obj.registry)
    if as_json and reporter.speaks:
        print(json.dumps(result.record, indent=2, default=str))


def require_models(settings: Settings) -> None:
    """Require source and target, except for a resumed run, whose record names them.

    Raises:
        ConfigError: naming what is missing.
    """
    missing = [
        f"{flag} is missing" for flag, name in (("--from", settings.source), ("--to", settings.target)) if not name
    ]
    if missing and not settings.resume:
        raise ConfigError(
            missing, "for example `vpgt transfer --from opt-mini-s --to llama-mini`; `vpgt list-models` lists aliases"
        )


def show_plan(ctx: typer.Context, settings: Settings, as_json: bool) -> None:
    from vpgtrans_core.planning.plan import plan

    made = plan(settings, registry=ctx.obj.registry)
    print(json.dumps(made.as_dict(), indent=2, default=str) if as_json else made)

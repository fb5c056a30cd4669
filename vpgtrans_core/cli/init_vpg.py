"""``vpgt init-vpg``: make a VPG of one's own, and pre-train it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.options import given_values, with_settings
from vpgtrans_core.settings.initial import SHARED, InitSettings, build_initial

PANEL = "This command"


def add_to(app: typer.Typer) -> None:
    app.command("init-vpg")(init_vpg)


@with_settings(lambda name: name if name in SHARED else None, InitSettings)
def init_vpg(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", rich_help_panel=PANEL, help="Settings file; flags take precedence over it."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=PANEL, help="Show sizes, work and time without training anything."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=PANEL, help="Print the result as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", rich_help_panel=PANEL, help="Print only warnings and errors.")
    ] = False,
    **flags: Any,
) -> None:
    """Make a VPG from nothing, or behind a trained vision tower, and pre-train it on images with captions."""
    initial, settings = build_initial(given_values(config, flags))
    registry = ctx.obj.registry
    if dry_run:
        from vpgtrans_core.pretraining.plan import plan_initial

        made = plan_initial(initial, settings, registry)
        print(json.dumps(made.as_dict(), indent=2, default=str) if as_json else made)
        return
    from vpgtrans_core.cli.progress import Reporter
    from vpgtrans_core.pretraining.pipeline import init_vpg as run

    with Reporter(quiet=quiet) as reporter:
        registry.on_warning = reporter.warning
        result = run((initial, settings), reporter=reporter, registry=registry)
    if as_json and reporter.speaks:
        print(json.dumps(result.record, indent=2, default=str))

"""``vpgt tune``: make a chat model of a VL-LLM, on conversations about images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.options import settings_from, with_settings
from vpgtrans_core.cli.transfer import run_or_plan
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import tuning_values

PANEL = "This command"
ELSEWHERE = ("source", "target", "method", "stages", "start", "converter", "shuffle_pairs", "then", "then_data")
"""Settings that this command has no use for; nor for those of the other stages."""
OWN = ("batch_size", "max_tokens")
"""Settings of the whole run in place of which this command has those of its stage."""


def add_to(app: typer.Typer) -> None:
    app.command("tune")(tune)


def _flag(name: str) -> str | None:
    """The flag of a setting in this command; None for one that it has no use for."""
    if name in (*ELSEWHERE, *OWN) or name.startswith(("stage1_", "stage2_", "early_stop")):
        return None
    return name.removeprefix("stage3_")


@with_settings(_flag)
def tune(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A whole VL-LLM: a folder of `vpgt transfer` or `vpgt import`, an alias or hub id.")
    ] = "",
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", rich_help_panel=PANEL, help="Settings file; flags take precedence over it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=PANEL, help="Show the plan without loading weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=PANEL, help="Print the result as JSON.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", rich_help_panel=PANEL, help="Print only warnings and errors.")
    ] = False,
    **flags: Any,
) -> None:
    """Tune a VL-LLM on conversations about images: VPG and projector are trained, and --lora in the LLM."""
    settings = settings_from(config, flags | {"source": model}, tuning_values)
    if not model and not settings.resume:
        raise ConfigError(
            ["MODEL is missing"], "for example `vpgt tune runs/mini --data llava.json`; --resume --out DIR needs none"
        )
    run_or_plan(ctx, settings, dry_run, as_json, quiet)

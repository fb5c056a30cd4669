"""``vpgt list-targets``: which LLMs a VPG family's model folders can hold."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from vpgtrans_core.cli.listing import Json


def add_to(app: typer.Typer) -> None:
    app.command("list-targets")(list_targets)


def list_targets(
    ctx: typer.Context,
    family: Annotated[str, typer.Argument(help="The VPG family, as `vpgt list-plugins` shows it.")],
    model_types: Annotated[
        list[str] | None, typer.Argument(help="transformers' model types to try; default all that it has.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try which LLMs a VPG family's folders can hold: exact, mended or refused, with the reason."""
    from vpgtrans_core.planning.targets import whole_targets

    tried = []
    for target in whole_targets(ctx.obj.registry, family, model_types or ()):
        tried.append(dataclasses.asdict(target))
        if not as_json:
            print(f"{target.model_type:24} {target.verdict:8} {target.why}".rstrip(), flush=True)
    if as_json:
        print(json.dumps(tried, indent=2))

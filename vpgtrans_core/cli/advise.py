"""``vpgt advise``: which source to take for an LLM."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.settings import build

CRITERION = (
    "The criterion is the loss before training, with the projector initialised from words: lower is better. The other "
    "columns do not count."
)


def add_to(app: typer.Typer) -> None:
    app.command("advise")(advise)


def advise(
    ctx: typer.Context,
    target: Annotated[str, typer.Option("--to", help="The LLM: an alias, hub id or folder.")],
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="A source; repeatable. Default: all that are on this machine.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Images with captions; default those of the source.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images that the loss is measured on.")] = 60,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank sources for an LLM by the loss before training, on a few hundred captions: a minute instead of a run."""
    from vpgtrans_core.lab.advise import advise as ask

    settings = build({"data": tuple(data or ()), "device": device, "offline": offline})
    found = ask(target, sources or (), ctx.obj.registry, settings, images)
    if as_json:
        print(json.dumps([one.as_dict() for one in found], indent=2))
        return
    rows = [
        (one.source, f"{one.loss:.3f}", str(one.pairs), f"{one.held_out_cosine:.3f}", f"{one.gpu_hours:.2g}")
        for one in found
        if one.loss is not None
    ]
    head = ("SOURCE", "LOSS BEFORE TRAINING", "WORD PAIRS", "COSINE", "A100-HOURS")
    lines = [*columns(head, rows, right=(1, 2, 3, 4)), CRITERION]
    print("\n".join(lines + [f"{one.source} cannot be used: {one.problem}" for one in found if one.problem]))

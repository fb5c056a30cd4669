"""``vpgt export``: write a model that is there in another form."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vpgtrans_core.settings import build


def add_to(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, an alias or a hub id of a VL-LLM.")],
    to: Annotated[
        str,
        typer.Option(
            help="hf: the folder that transformers loads; vpg: VPG and projector alone; or a form of the VPG's family "
            "(lavis: the paper's .pth)."
        ),
    ],
    out: Annotated[str, typer.Option(help="The folder to write, or the file.")],
    with_vit: Annotated[bool, typer.Option("--with-vit", help="Write the frozen ViT into the .pth too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model folder that exists.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model folder.")
    ] = False,
) -> None:
    """Write a model as transformers' folder, as a VPG alone, or in a form of its VPG's family."""
    from vpgtrans_core.run.export import export_model

    settings = build({"offline": offline, "trust_remote_code": trust_remote_code})
    options: dict[str, Any] = {"with_vit": True} if with_vit else {}
    export_model(model, out, to, registry=ctx.obj.registry, settings=settings, overwrite=overwrite, **options)
    print(out)

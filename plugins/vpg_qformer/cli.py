"""The command ``vpgt import``."""

from __future__ import annotations

from typing import Annotated

import typer

from vpgtrans_core.settings import build

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model folder that exists.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with a model folder.")]


def import_(
    ctx: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="The .pth with the Q-Former, from LAVIS or VPGTrans.")],
    out: Annotated[str, typer.Option(help="The model folder to write.")],
    llm: Annotated[
        str | None,
        typer.Option(help="The projector's LLM: an alias, hub id or folder. Without it: the VPG alone."),
    ] = None,
    vit: Annotated[str | None, typer.Option(help="The ViT's own .pth, which trained checkpoints leave out.")] = None,
    projector: Annotated[
        str | None, typer.Option(help="A second .pth to take the projector from, as stage 1 writes it.")
    ] = None,
    vpg: Annotated[
        str | None, typer.Option(help="A model to take the VPG from, for a .pth that holds only the projector.")
    ] = None,
    shapes: Annotated[str | None, typer.Option(help="A json file of sizes that the tensors do not show.")] = None,
    template: Annotated[
        str,
        typer.Option(help="Its chat template; default the LLM's own, and minigpt4 for the paper's vl-vicuna.pth."),
    ] = "auto",
    overwrite: Overwrite = False,
    offline: Offline = False,
    trust_remote_code: Trust = False,
) -> None:
    """Make a model folder of a checkpoint of the paper's code (.pth)."""
    from vpg_qformer.conversion import import_checkpoint

    found = import_checkpoint(
        checkpoint,
        out,
        registry=ctx.obj.registry,
        settings=build({"offline": offline, "trust_remote_code": trust_remote_code, "template": template}),
        template=template,
        vit=vit,
        llm=llm,
        shapes=shapes,
        projector=projector,
        vpg=vpg,
        overwrite=overwrite,
    )
    for why, count in sorted(found.dropped.items()):
        print(f"left aside: {count} of the {why}" if why != "positions" else "left aside: the table of positions")
    what = "a VL-LLM" if found.projector is not None else "a VPG without projector"
    print(f"{out}: {what}, {found.vpg.num_prompts} soft prompts an image of {found.vpg.preprocessing.size} px")

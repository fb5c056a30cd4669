"""``vpgt caption``: captions of images, and answers to questions about them."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from vpgtrans_core.settings import build


def add_to(app: typer.Typer) -> None:
    app.command("caption")(caption)


def caption(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, an alias or a hub id of a VL-LLM.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    prompt: Annotated[str, typer.Option(help="Text after the image, for instance a question.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Number of beams.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(min=0, help="Shortest text in tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Precision: auto, float32, bfloat16 or float16.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model folder.")
    ] = False,
) -> None:
    """Describe images, or answer a question about them."""
    from vpgtrans_core.vlm.captioning import caption as describe

    chosen = {"num_beams": num_beams, "min_new_tokens": min_new_tokens, "max_new_tokens": max_new_tokens}
    options = {name: value for name, value in chosen.items() if value is not None}
    machine = {"device": device, "dtype": dtype, "offline": offline, "trust_remote_code": trust_remote_code}
    results = describe(
        model, images, prompt=prompt, options=options, settings=build(machine), registry=ctx.obj.registry
    )
    if as_json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=2, ensure_ascii=False))
    else:
        print("\n".join(f"{result.image}: {result.text}" if len(results) > 1 else result.text for result in results))

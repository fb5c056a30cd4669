"""``vpgt inspect``: the soft prompts of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpgtrans_core.settings import build

if TYPE_CHECKING:
    from vpgtrans_core.inspection.inspect import Report


def add_to(app: typer.Typer) -> None:
    app.command("inspect")(inspect)


def inspect(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, an alias or a hub id of a VL-LLM.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    picture: Annotated[Path, typer.Option(metavar="FILE.png", help="Where the picture goes.")] = Path("inspect.png"),
    words: Annotated[int, typer.Option(min=1, help="Nearest words of each soft prompt.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
) -> None:
    """Show the soft prompts of images: nearest words, norms, and where in the picture each looks."""
    from vpgtrans_core.errors import ConfigError
    from vpgtrans_core.inspection.drawing import draw
    from vpgtrans_core.inspection.inspect import inspect as look
    from vpgtrans_core.vlm.captioning import load_model

    loaded = load_model(model, build({"device": device, "offline": offline}), ctx.obj.registry)
    report = look(loaded, images, words)
    try:
        draw(report).save(picture)
    except (OSError, ValueError) as error:
        raise ConfigError([f"cannot write the picture {picture}: {error}"], "choose another --picture") from error
    print(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) if as_json else table(report))
    if not as_json:
        print(f"\nthe picture: {picture}")


def table(report: Report) -> str:
    """The report as lines of text."""
    low, middle, high = report.word_norms
    lines = [f"words of the LLM: norm {middle:.3g} (90 % of them from {low:.3g} to {high:.3g})"]
    for one in report.images:
        lines += ["", one.image, f"{'prompt':>6} {'norm':>8}  nearest words (cosine)"]
        for number, prompt in enumerate(one.prompts, 1):
            nearest = ", ".join(f"{word} ({cosine:.2f})" for word, cosine in prompt.words)
            lines.append(f"{number:>6} {prompt.norm:>8.3g}  {nearest}")
        if one.attention is None:
            lines.append("this VPG has no queries that tell where they look")
    return "\n".join(lines)

"""``vpgt template``: show what an LLM reads of a conversation, token by token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import build

if TYPE_CHECKING:
    from vpgtrans_core.llm.text import Text
    from vpgtrans_core.templates import ChatTemplate

PER_LINE = 8
"""Tokens a line."""


def add_to(app: typer.Typer) -> None:
    app.command("template")(template)


def template(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="An LLM or a VL-LLM: an alias, hub id or folder.")] = "",
    name: Annotated[
        str, typer.Option("--template", help="One that ships, own (the tokenizer's), a file of jinja, or auto.")
    ] = "auto",
    names: Annotated[bool, typer.Option("--list", help="List the templates that ship.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model folder.")
    ] = False,
) -> None:
    """Show a conversation in a model's chat template: its tokens, where images stand, and what is learned."""
    if names:
        from vpgtrans_core.templates import template_names

        print(json.dumps(template_names()) if as_json else "\n".join(template_names()))
        return
    if not model:
        raise ConfigError(["MODEL is missing"], "for example `vpgt template opt-mini-s --template minigpt4`")
    settings = build({"template": name, "offline": offline, "trust_remote_code": trust_remote_code})
    from vpgtrans_core.vlm.reading import example_of

    chosen, text, tokenizer = example_of(model, settings, ctx.obj.registry)
    pieces = _pieces(text, tokenizer)
    if as_json:
        print(json.dumps({"template": chosen.name, "end": chosen.end, "pieces": pieces}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(chosen, pieces)))


def _pieces(text: Text, tokenizer: Any) -> list[dict[str, Any]]:
    """Each run of tokens with its ids, and each image."""
    from vpgtrans_core.llm.text import ImagePlace

    return [
        {"image": piece.index}
        if isinstance(piece, ImagePlace)
        else {
            "ids": list(piece.ids),
            "tokens": tokenizer.convert_ids_to_tokens(list(piece.ids)),
            "labelled": piece.labelled,
        }
        for piece in text.pieces
    ]


def _lines(template: ChatTemplate, pieces: list[dict[str, Any]]) -> list[str]:
    lines = [f"template {template.name}; an answer ends with {template.end!r}", ""]
    last = ""
    for piece in pieces:
        if "image" in piece:
            last = ""
            lines.append(f"IMAGE {piece['image'] + 1}: the soft prompts of the image")
            continue
        heading = "LEARNED" if piece["labelled"] else "READ"
        lines += [] if heading == last else [heading]
        last = heading
        marked = [f"{token} ({number})" for token, number in zip(piece["tokens"], piece["ids"], strict=True)]
        lines += ["  " + "  ".join(marked[n : n + PER_LINE]) for n in range(0, len(marked), PER_LINE)]
    return lines

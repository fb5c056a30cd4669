"""``vpgt chat``: a conversation with a model, in the terminal or on a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import build


def add_to(app: typer.Typer) -> None:
    app.command("chat")(chat)


def chat(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model folder, an alias or a hub id of a VL-LLM.")],
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Images to talk about.")] = None,
    web: Annotated[bool, typer.Option("--web", help="Talk on a page in the browser instead of the terminal.")] = False,
    template: Annotated[
        str, typer.Option(help="Chat template: auto (the one that the model was tuned in), a name or a file of jinja.")
    ] = "auto",
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: the most likely words; more: at random.")] = 0,
    num_beams: Annotated[int, typer.Option(min=1, max=10, help="Beams; above 1 answers are shown when done.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer in tokens.")] = 300,
    host: Annotated[str, typer.Option(help="Of the page; others than this machine need a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 for any that is free.")] = 7860,
    password: Annotated[
        str | None, typer.Option(envvar="VPGT_CHAT_PASSWORD", help="Of the page; a new one where others can reach it.")
    ] = None,
    examples: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures that the page offers.")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Precision: auto, float32, bfloat16 or float16.")] = "auto",
    quantization: Annotated[str, typer.Option(help="The LLM in none, 8bit or 4bit.")] = "none",
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a model folder.")
    ] = False,
) -> None:
    """Talk with a model about images: in the terminal, or on a page with --web."""
    machine = {"device": device, "dtype": dtype, "quantization": quantization, "offline": offline}
    settings = build({**machine, "trust_remote_code": trust_remote_code, "template": template})
    if web:
        from vpgtrans_core.chat.serving import require_gradio

        require_gradio()
        if images:
            raise ConfigError(
                ["images are dropped on the page itself"], "leave them out, or offer them: --examples DIR"
            )
    from vpgtrans_core.chat.address import choose_address
    from vpgtrans_core.chat.options import CHAT, changed
    from vpgtrans_core.chat.speaker import Speaker

    address = choose_address(host, port, password) if web else None
    options = CHAT
    for name, value in {"temperature": temperature, "beams": num_beams, "length": max_new_tokens}.items():
        options = changed(options, name, value)
    speaker = Speaker.load(model, settings, ctx.obj.registry)
    if address is None:
        from vpgtrans_core.chat.chat import Chat
        from vpgtrans_core.chat.terminal import Terminal

        talk = Chat(speaker)
        talk.show(images or [])
        Terminal(talk, options).run()
        return
    from vpgtrans_core.chat.serving import serve
    from vpgtrans_core.miniature.examples import draw_examples

    if address.warning:
        print(f"warning: {address.warning}", file=sys.stderr)
    print("loading the page...", flush=True)
    serve(
        speaker, Path(model).name, address, options=options, examples=examples, drawn=draw_examples,
        open_browser=browser,
        ready=lambda url: print(f"{url}   (Ctrl-C ends)", flush=True),
    )  # fmt: skip

"""Serves the page until it is stopped."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vpgtrans_core.chat.address import USER, Address
from vpgtrans_core.chat.speaker import Speaker
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import FORMATS, decode
from vpgtrans_core.data.regular import MAX_BYTES, read_regular
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.llm.adapter import GenerateOptions

QUESTION = "What is in the picture?"
MOST_EXAMPLES = 8
OPENED = 0.1


def require_gradio() -> None:
    """Check that the page can be shown, before anything is loaded for it.

    Raises:
        ConfigError: Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(
            ["the page needs Gradio, which is not installed"], 'pip install -e ".[web]" in a clone of this repository'
        )


def serve(
    speaker: Speaker,
    title: str,
    address: Address,
    *,
    options: GenerateOptions,
    examples: Path | None = None,
    drawn: Callable[[Path], Sequence[Path]] = lambda folder: (),
    open_browser: bool = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C.

    What visitors upload lies in a folder of its own, which is removed in the end.

    Args:
        title: the page's heading.
        options: how answers are generated at first.
        examples: a folder of pictures to offer; default `drawn` ones.
        drawn: writes pictures to offer into a folder and returns their files.
        ready: told the page's address when it can be opened.

    Raises:
        ConfigError: it cannot be served there, or `examples` has no pictures.
    """
    with tempfile.TemporaryDirectory(prefix="vpgt-page-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        pictures = example_pictures(examples) if examples else drawn(Path(folder))
        from vpgtrans_core.chat.page import STYLE, Page, theme

        blocks = Page(speaker, title, [(path, QUESTION) for path in pictures], options).build()
        try:
            blocks.launch(
                server_name=address.host, server_port=address.port, theme=theme(), css=STYLE, quiet=True, share=False,
                auth=(USER, address.password) if address.password else None, prevent_thread_lock=True, ssr_mode=False,
                inbrowser=open_browser, max_file_size=MAX_BYTES, footer_links=[], run_history=False, show_error=True,
                enable_monitoring=False, pwa=False, mcp_server=False,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError([f"cannot serve {address.url}: {error}"], "choose another with --port") from error
        try:
            ready(address.url)
            while blocks.is_running:
                time.sleep(OPENED)
        except KeyboardInterrupt as stop:
            if getattr(stop, "exit_code", 130) != 130:
                raise
        finally:
            blocks.close(verbose=False)


def example_pictures(folder: Path) -> Sequence[Path]:
    """The first pictures of a folder, in the order of their names.

    Raises:
        ConfigError: it has none that the gate lets through.
    """
    names = sorted(folder.expanduser().glob("*"))[: 8 * MOST_EXAMPLES]
    pictures = [path for path in names if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") and _opens(path)]
    if not pictures:
        raise ConfigError([f"{folder} has no {', '.join(FORMATS)} images"], "name a folder that has, with --examples")
    return pictures[:MOST_EXAMPLES]


def _opens(path: Path) -> bool:
    try:
        decode(read_regular(path, MAX_BYTES))
    except (OSError, BadSampleError):
        return False
    return True

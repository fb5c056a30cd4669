"""Chat templates: conversations become the text that an LLM was taught to read. Loads no torch."""

from vpgtrans_core.templates.chat import ChatTemplate, chat_text
from vpgtrans_core.templates.choose import (
    FILE,
    choose_template,
    own_template,
    template_names,
    usable_template,
    write_template,
)

__all__ = [
    "FILE",
    "ChatTemplate",
    "chat_text",
    "choose_template",
    "own_template",
    "template_names",
    "usable_template",
    "write_template",
]

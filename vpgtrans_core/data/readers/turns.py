"""The turns of a conversation about a picture, in the ways in which data sets write them down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpgtrans_core.data.readers.fields import picture, text_field

TURNS = ("conversations", "messages", "conversation")
ASKING = ("human", "user")
ANSWERING = ("gpt", "assistant", "model")


def turns_of(row: Any) -> list[Any] | None:
    """The turns of a row: ``{"from", "value"}`` or ``{"role", "content"}`` each; None when it has none."""
    turns = text_field(row, *TURNS)
    return turns if isinstance(turns, list) else None


def speaker_and_text(turn: Any) -> tuple[Any, Any]:
    """Who speaks in a turn, and what. Content in parts comes to the text of its parts."""
    text = text_field(turn, "value", "content")
    if isinstance(text, list):
        text = "\n".join(str(t) for part in text if (t := text_field(part, "text")) is not None)
    return text_field(turn, "from", "role"), text


def picture_of(row: Any) -> str | None:
    """The picture that a row names, in a field of its own or as a part of what is said.

    Raises:
        BadSampleError: it names several.
    """
    name = picture(row)
    if name is None:
        parts = list(_picture_parts(turns_of(row) or []))
        name = picture({"image": parts}) if parts else None
    return name


def _picture_parts(turns: list[Any]) -> Iterator[Any]:
    for turn in turns:
        content = text_field(turn, "content")
        for part in content if isinstance(content, list) else []:
            if (value := text_field(part, "image", "image_url", "path", "url")) is not None:
                yield value

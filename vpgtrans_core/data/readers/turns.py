"""The turns of a conversation about an image, in the formats of common data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vpgtrans_core.data.readers.fields import pictures, text_field

TURNS = ("conversations", "messages", "conversation")
MARK = "<image>"
"""Stands in a turn where an image is shown."""


def turns_of(row: Any) -> list[Any] | None:
    """The turns of a row: ``{"from", "value"}`` or ``{"role", "content"}`` each; None when it has none."""
    turns = text_field(row, *TURNS)
    return turns if isinstance(turns, list) else None


def speaker_and_text(turn: Any) -> tuple[Any, Any]:
    """Who speaks in a turn, and what. Content in parts comes to the text of its parts, images to marks."""
    text = text_field(turn, "value", "content")
    if isinstance(text, list):
        text = "\n".join(MARK if _shows(part) else str(text_field(part, "text") or "") for part in text)
    return text_field(turn, "from", "role"), text


def pictures_of(row: Any) -> list[str]:
    """The images that a row names, in a field of its own or as parts of what is said.

    Raises:
        BadSampleError: one of them is something else than a name.
    """
    return pictures(row) or pictures({"image": list(_picture_parts(turns_of(row) or []))})


def _shows(part: Any) -> bool:
    return text_field(part, "type") in ("image", "image_url") or text_field(part, "image", "image_url") is not None


def _picture_parts(turns: list[Any]) -> Iterator[Any]:
    for turn in turns:
        content = text_field(turn, "content")
        for part in content if isinstance(content, list) else []:
            if (value := text_field(part, "image", "image_url", "path", "url")) is not None:
                yield value

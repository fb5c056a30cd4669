"""LLaVA's format: ``[{"image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}]``.

Each row is a conversation about one image, or about several where `image` is a list. ``<image>`` in a turn marks where
an image is shown; without such marks all are shown first. A stage that trains on instructions learns conversations
whole, as they are written. One that trains on captions learns each answer alone: see `Conversation.captions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.conversation import Conversation, ImageMark, Role, Turn
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.json_rows import Row, as_list, gathered, listing_of, text_field

MARK = "<image>"
ROLES: dict[Any, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip


def fits(data: Any) -> bool:
    """Whether parsed json has this format's shape."""
    rows = data[:100] if isinstance(data, list) else []
    return any(isinstance(row, dict) and isinstance(row.get("conversations"), list) for row in rows)


def read(data: Any, file: Path, root: Path | None, clean: Callable[[str], str]) -> Listing:
    """Make the listing; conversations about the same images are gathered, those without image only counted."""
    builder = ListingBuilder(str(file), "llava", clean)
    return listing_of(gathered(_rows(data, builder)), builder, file, root)


def _rows(data: Any, builder: ListingBuilder) -> Iterator[Row]:
    for number, row in enumerate(data):
        turns, names = text_field(row, "conversations"), as_list(text_field(row, "image"))
        if not isinstance(turns, list) or not all(isinstance(name, str) for name in names):
            builder.skip(f"row {number + 1}", bad.BAD_ROW, "no conversations or no image name")
        elif not any(names):
            builder.imageless += 1
        elif not any(text_field(turn, "value") and _role(turn) == "assistant" for turn in turns):
            builder.skip(f"row {number + 1}", bad.MISSING_TEXT, f"{names[0]} has no answer")
        else:
            try:
                said = conversation(turns, len(names))
            except ValueError as error:
                builder.skip(f"row {number + 1}", bad.BAD_ROW, f"{names[0]}: {error}")
            else:
                yield Row(" ".join(names), names[0], [said], tuple(names[1:]))


def conversation(turns: list[Any], images: int) -> Conversation:
    """The conversation of a row's turns about so many images.

    Raises:
        ValueError: a turn has no known speaker or no text, the first one is an answer, an answer shows an image, or
            there are more or fewer marks than images.
    """
    marks = iter(range(images))
    parsed = [_turn(turn, marks) for turn in turns]
    shown = images - len(list(marks))
    if shown == 0:
        first = next((n for n, turn in enumerate(parsed) if turn.role == "user"), 0)
        parsed[first] = Turn(parsed[first].role, (*map(ImageMark, range(images)), *parsed[first].content))
    elif shown < images:
        raise ValueError(f"{shown} image marks for {images} images")
    return Conversation(tuple(parsed))


def _turn(turn: Any, marks: Iterator[int]) -> Turn:
    """One turn; its image marks take the next images of `marks`."""
    role, value = _role(turn), text_field(turn, "value")
    if role is None or not isinstance(value, str):
        raise ValueError("a turn without a known speaker or without a text")
    words, *more = value.split(MARK)
    if more and role == "assistant":
        raise ValueError("an answer that shows an image")
    content: list[str | ImageMark] = [words.strip()]
    for part in more:
        if (mark := next(marks, None)) is None:
            raise ValueError("more image marks than images")
        content += [ImageMark(mark), part.strip()]
    return Turn(role, tuple(part for part in content if part != ""))


def _role(turn: Any) -> Role | None:
    return ROLES.get(text_field(turn, "from"))

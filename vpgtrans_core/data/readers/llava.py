"""LLaVA's format: ``[{"image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}]``, and the
same as ``[{"images": [...], "messages": [{"role": "user", "content"}, {"role": "assistant", "content"}]}]``.

Each row is a conversation about one image, or about several where a list is given. ``<image>`` in a turn marks where
an image is shown; without such marks all are shown first. A stage that trains on instructions learns conversations
whole, as they are written. One that trains on captions learns each answer alone: see `Conversation.captions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Conversation, ImageMark, Role, Turn
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import Reading, keys_of
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of
from vpgtrans_core.data.readers.turns import MARK, pictures_of, speaker_and_text, turns_of

ROLES: dict[Any, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip


def fits(data: Any, reading: Reading) -> bool:
    """Whether parsed json has this format's shape."""
    rows = data[:100] if isinstance(data, list) else []
    return any(turns_of(row) is not None and reading.caption_key not in row for row in rows)


def read(data: Any, file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; conversations about the same images are gathered, those without image only counted."""
    builder = ListingBuilder(str(file), "llava", reading.clean_answer)
    return listing_of(gathered(_rows(data, builder), builder), builder, file, root)


def _rows(data: Any, builder: ListingBuilder) -> Iterator[Row]:
    for number, row in enumerate(data):
        key, turns = f"row {number + 1}", turns_of(row)
        if turns is None:
            builder.skip(key, bad.BAD_ROW, "no conversations and no messages")
            builder.meet(keys_of(row))
            continue
        try:
            if names := pictures_of(row):
                yield Row(" ".join(names), names[0], [conversation(turns, len(names))], tuple(names[1:]))
            else:
                builder.imageless += 1
        except BadSampleError as error:
            builder.skip(key, error.kind, error.detail)


def conversation(turns: Any, images: int) -> Conversation:
    """The conversation of a row's turns about so many images.

    Raises:
        BadSampleError: no turn is an answer, a turn has no known speaker or no text, the first one is an answer, an
            answer shows an image, or there are more or fewer marks than images.
    """
    if not isinstance(turns, list) or not any(
        _role(turn) == "assistant" and speaker_and_text(turn)[1] for turn in turns
    ):
        raise BadSampleError(bad.MISSING_TEXT, f"no answer; {_speakers(turns)}")
    marks = iter(range(images))
    parsed = [_turn(turn, marks) for turn in turns]
    shown = images - len(list(marks))
    if shown == 0:
        first = next((n for n, turn in enumerate(parsed) if turn.role == "user"), 0)
        parsed[first] = Turn(parsed[first].role, (*map(ImageMark, range(images)), *parsed[first].content))
    elif shown < images:
        raise BadSampleError(bad.BAD_ROW, f"{shown} image marks but {images} images")
    try:
        return Conversation(tuple(parsed))
    except ValueError as error:
        raise BadSampleError(bad.BAD_ROW, str(error)) from error


def _turn(turn: Any, marks: Iterator[int]) -> Turn:
    """One turn; its image marks take the next images of `marks`."""
    role, value = _role(turn), speaker_and_text(turn)[1]
    if role is None or not isinstance(value, str):
        raise BadSampleError(bad.BAD_ROW, f"a turn has no known speaker or no text; {_speakers([turn])}")
    words, *more = value.split(MARK)
    if more and role == "assistant":
        raise BadSampleError(bad.BAD_ROW, "an answer contains an image")
    content: list[str | ImageMark] = [words.strip()]
    for part in more:
        if (mark := next(marks, None)) is None:
            raise BadSampleError(bad.BAD_ROW, "more image marks than images")
        content += [ImageMark(mark), part.strip()]
    return Turn(role, tuple(part for part in content if part != ""))


def _role(turn: Any) -> Role | None:
    speaker = speaker_and_text(turn)[0]
    return ROLES.get(speaker.lower()) if isinstance(speaker, str) else None


def _speakers(turns: Any) -> str:
    """Who speaks, and who may, for a message."""
    met = dict.fromkeys(str(speaker_and_text(turn)[0]) for turn in turns) if isinstance(turns, list) else {}
    return f"it has {', '.join(list(met)[:5]) or 'no turns'}; answers are those of gpt, assistant or model"[:160]

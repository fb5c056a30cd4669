"""Captions of images and conversations about them, and the templates that make one text of a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from vpgtrans_core.data.describing import is_generic

TextKind = Literal["caption", "instruction"]
"""How texts are learned: each answer alone after its image, or whole conversations in a template."""
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Caption:
    """A text that the LLM learns to say of an image, after `prompt` (empty for plain captioning)."""

    text: str
    prompt: str = ""


@dataclass(frozen=True)
class ImageMark:
    """A place in a text at which one of the sample's images is shown: its `index`-th, from 0."""

    index: int = 0


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and images in order; an answer is one text."""

    role: Role
    content: tuple[str | ImageMark, ...]


@dataclass(frozen=True)
class Conversation:
    """Turns in order. Every answer (turn of the assistant) is learned; it sees all turns before it.

    Raises:
        ValueError: it is empty, or begins with an answer.
    """

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if not self.turns or self.turns[0].role == "assistant":
            raise ValueError("a conversation begins with a turn of the user or of the system")

    @classmethod
    def about_image(cls, question: str, answer: str = "") -> Conversation:
        """One question about one image, which stands before it; with its answer, if there is one."""
        asked = Turn("user", (ImageMark(), question) if question else (ImageMark(),))
        return cls((asked, Turn("assistant", (answer,))) if answer else (asked,))

    @property
    def marks(self) -> list[int]:
        """Which images are shown, in order."""
        return [part.index for turn in self.turns for part in turn.content if isinstance(part, ImageMark)]

    @property
    def answers(self) -> int:
        """How many turns are answers."""
        return sum(turn.role == "assistant" for turn in self.turns)

    def captions(self) -> tuple[Caption, ...]:
        """Each answer alone, on one line, with the words of the turns right before it as its prompt; an answer to a
        generic wish for a description ("Provide a brief description of the given image.") has none, as the paper
        trains captions."""
        captions, asked = [], ""
        for turn in self.turns:
            words = " ".join(part for part in turn.content if isinstance(part, str)).strip()
            if turn.role == "assistant":
                captions.append(Caption(" ".join(words.split()), "" if is_generic(asked) else asked))
            else:
                asked = words
        return tuple(captions)

    def with_answers(self, clean: Callable[[str], str]) -> Conversation:
        """With each answer cleaned; empty ones go."""
        turns: list[Turn] = []
        for turn in self.turns:
            if turn.role == "assistant":
                text = clean("".join(part for part in turn.content if isinstance(part, str)))
                turn = Turn(turn.role, (text,) if text else ())
            turns.append(turn)
        return Conversation(tuple(turn for turn in turns if turn.content or turn.role != "assistant"))

    def dumps(self) -> str:
        """One line of json, from which `loads` makes an equal conversation."""
        turns = [[t.role, [p.index if isinstance(p, ImageMark) else p for p in t.content]] for t in self.turns]
        return json.dumps(turns, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def loads(cls, line: str) -> Conversation:
        return cls(
            tuple(
                Turn(role, tuple(ImageMark(p) if isinstance(p, int) else p for p in content))
                for role, content in json.loads(line)
            )
        )


@dataclass(frozen=True)
class Span:
    """A part of a text; a labelled one is an answer, which the LLM learns to say and to end.

    Attributes:
        ended: whether the text of an answer holds its end; otherwise the LLM's end of text follows.
        verbatim: whether it is tokenized together with its neighbours, as transformers tokenizes a rendered chat
            template, special tokens and all.
    """

    text: str
    labelled: bool = False
    ended: bool = False
    verbatim: bool = False


class Template(Protocol):
    """Makes a text of a conversation; see `vpgtrans_core.templates`. Picklable: it travels to data workers."""

    def spans(self, conversation: Conversation) -> list[Span | ImageMark]:
        """The text's spans and images in order: each answer is a labelled span of its own, neighbouring texts that
        are not labelled are one span. Where the last turn is no answer, the text ends where one would begin."""
        ...

"""A conversation with a model: questions, images and answers, as many of them as the LLM has positions for."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vpgtrans_core.chat.options import CHAT
from vpgtrans_core.chat.speaker import Picture, Speaker
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.text import Text

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PICTURES = 16
"""Images that one question may show."""
ANSWER_PART = 4
"""One in so many of the LLM's positions at least is kept free for an answer, where a longer one is wanted."""
FORGOTTEN = (
    "The conversation has outgrown the language model: its oldest turns are no longer read. The last picture stays."
)


@dataclass(frozen=True)
class Exchange:
    """A question with the images that are shown with it, and the answer; empty while there is none."""

    pictures: tuple[Picture, ...]
    question: str
    answer: str = ""


@dataclass
class Chat:
    """One conversation.

    Attributes:
        speaker: the model.
        notify: told what a person should know, once.
        past: what was said.
        pending: images for the next question.
    """

    speaker: Speaker
    notify: Callable[[str], None] = print
    past: list[Exchange] = field(default_factory=list)
    pending: list[Picture] = field(default_factory=list)
    _told: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def show(self, images: Sequence[str | Path | Image]) -> list[Picture]:
        """Show images with the next question: all of them, or none if one cannot be used.

        Raises:
            DataError: naming the image; or there are too many for one question.
        """
        if len(self.pending) + len(images) > MOST_PICTURES:
            raise DataError(
                f"{len(self.pending) + len(images)} images are too many for one question, which may show "
                f"{MOST_PICTURES}",
                "show some of them, or ask about them one after the other",
            )
        pictures = [self.speaker.look(image) for image in images]
        self.pending += pictures
        return pictures

    def ask(self, question: str, options: GenerateOptions = CHAT) -> Iterator[str]:
        """Ask, and yield the answer as often as it has grown.

        An answer that is stopped (`stop`, or the iterator is closed) stays in the conversation as it is. After an error
        the conversation is what it was before.

        Raises:
            DataError: the question is empty, or too long for the LLM.
        """
        question = question.strip()
        if not question:
            raise DataError("the question is empty", "write one, for example: What is in the picture?")
        asked = Exchange(tuple(self.pending), question)
        read, prompt, left = self._fitting(asked, options.max_new_tokens)
        if len(read) <= len(self.past) and not self._told:
            self._told = True
            self.notify(FORGOTTEN)
        self._stop = threading.Event()
        pictures = [picture for exchange in read for picture in exchange.pictures]
        options = dataclasses.replace(options, max_new_tokens=left, min_new_tokens=min(left, options.min_new_tokens))
        answer = ""
        try:
            for answer in self.speaker.answer(prompt, pictures, options, self._stop):
                yield answer
        except Exception:
            raise
        except BaseException:  # the iterator was closed, or Ctrl-C
            self._remember(asked, answer)
            raise
        self._remember(asked, answer)

    def stop(self) -> None:
        """End the answer that is being generated; another thread may call this."""
        self._stop.set()

    def reset(self) -> None:
        """Begin a new conversation, without images."""
        self.stop()
        self.past, self.pending, self._told = [], [], False

    def _remember(self, asked: Exchange, answer: str) -> None:
        """Without an answer the images wait for another question."""
        if answer:
            self.past.append(dataclasses.replace(asked, answer=answer))
            self.pending = []

    def _fitting(self, asked: Exchange, wanted: int) -> tuple[list[Exchange], Text, int]:
        """The last exchanges that leave room for an answer, their text, and how many tokens the answer may have.

        Raises:
            DataError: the question alone leaves none.
        """
        for first in range(len(self.past) + 1):
            read = _with_last_picture(self.past[:first], [*self.past[first:], asked])
            prompt = self.speaker.write(_conversation(read))
            pictures = [picture for exchange in read for picture in exchange.pictures]
            room = self.speaker.room(prompt, pictures)
            if room is None:
                return read, prompt, wanted
            length = self.speaker.length(prompt, pictures)
            positions = length + room
            if room >= min(wanted, positions // ANSWER_PART) or (first == len(self.past) and room > 0):
                return read, prompt, min(wanted, room)
        shown, of_images = len(pictures), sum(picture.positions for picture in pictures)
        raise DataError(
            f"the question takes {length} positions ({of_images} for {shown} "
            f"images), and the language model has {positions}, one of which at least has to remain for the "
            "answer",
            "ask a shorter question, or show fewer images" if shown > 1 else "ask a shorter question",
        )


def _with_last_picture(forgotten: Sequence[Exchange], kept: list[Exchange]) -> list[Exchange]:
    """`kept`, whose first question shows the last picture of all if none of them shows any: the conversation is about
    it."""
    pictures = [picture for exchange in forgotten for picture in exchange.pictures]
    if not pictures or any(exchange.pictures for exchange in kept):
        return kept
    return [dataclasses.replace(kept[0], pictures=(pictures[-1],)), *kept[1:]]


def _conversation(exchanges: Sequence[Exchange]) -> Conversation:
    """Exchanges as turns: images stand before their question, and are counted over the whole conversation."""
    turns: list[Turn] = []
    shown = 0
    for exchange in exchanges:
        marks = [ImageMark(shown + n) for n in range(len(exchange.pictures))]
        shown += len(marks)
        turns.append(Turn("user", (*marks, exchange.question)))
        turns += [Turn("assistant", (exchange.answer,))] if exchange.answer else []
    return Conversation(tuple(turns))

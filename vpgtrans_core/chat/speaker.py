"""A loaded model that conversations share: it sees each image once, and answers one question at a time."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.data.images import pixels
from vpgtrans_core.data.tiles import Tiles, stacked
from vpgtrans_core.errors import DataError, ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.shown import Prompts, together
from vpgtrans_core.llm.text import Text, length
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import chat_text, template_names
from vpgtrans_core.vlm.captioning import load_model, open_image
from vpgtrans_core.vlm.model import VLModel

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT = 256
"""Images whose soft prompts are kept, those that were shown last."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that the VPG has seen: its name, and its soft prompts ``[Q, D]``, or as many as it has."""

    name: str
    prompts: Prompts

    @property
    def positions(self) -> int:
        """How many positions of the LLM it takes."""
        return len(self.prompts) if isinstance(self.prompts, Tensor) else sum(self.prompts.positions)


class Speaker:
    """A model that answers in conversations; several threads may use it at once.

    Args:
        model: with a chat template.

    Raises:
        ModelError: it has no template.
    """

    def __init__(self, model: VLModel) -> None:
        if model.template is None:
            raise ModelError(
                "the model has no chat template, so vpgt does not know how a conversation is written for it",
                f"give the one that it was tuned in with --template: {', '.join(template_names())}, or a file of jinja",
            )
        self.model = model
        self.template = model.template
        self._seen: OrderedDict[str, Prompts] = OrderedDict()
        self._turn = threading.Lock()

    @classmethod
    def load(cls, name: str, settings: Settings, registry: Registry) -> Speaker:
        """Load a model by alias, hub id or folder.

        Raises:
            ModelError: it cannot be found, has no LLM, projector or chat template.
        """
        return cls(load_model(name, settings, registry))

    def look(self, image: str | Path | Image) -> Picture:
        """Let the VPG see an image; one that it has seen is not computed again.

        Raises:
            DataError: it is no image that the gate lets through.
        """
        name, opened = open_image(image, 0)
        seen = pixels(opened, self.model.vpg.preprocessing)
        tiles, size = (seen.values, seen.sizes) if isinstance(seen, Tiles) else (seen, ())
        key = hashlib.sha256(tiles.numpy().tobytes() + repr(size).encode()).hexdigest()
        with self._turn:
            if key not in self._seen:
                with torch.no_grad():
                    self._seen[key] = self.model.soft_prompts(stacked([seen]).to(self.model.device), "pixels")[0]
            self._seen.move_to_end(key)
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
            return Picture(Path(name).name, self._seen[key])

    def write(self, conversation: Conversation) -> Text:
        """The text of a conversation that ends with a question.

        Raises:
            DataError: the template or the LLM cannot take it.
        """
        try:
            return chat_text(self.model.llm.text, self.template, conversation)
        except BadSampleError as error:
            raise DataError(
                f"the model cannot read this conversation: {error.detail or error.kind}",
                "begin a new one: /reset, or New conversation on the page",
            ) from error

    def room(self, prompt: Text, pictures: Sequence[Picture]) -> int | None:
        """How many tokens may follow; see `LLM.room`."""
        return self.model.llm.room(prompt, [picture.positions for picture in pictures])

    def length(self, prompt: Text, pictures: Sequence[Picture]) -> int:
        """How many positions a prompt takes, with its images."""
        return length(prompt.pieces, [picture.positions for picture in pictures])

    def answer(
        self, prompt: Text, pictures: Sequence[Picture], options: GenerateOptions, stop: threading.Event
    ) -> Iterator[str]:
        """Generate an answer, and yield it as often as it has grown; the last is the whole answer.

        It ends early when `stop` is set, and when the iterator is closed.
        """
        shape = (0, self.model.vpg.num_prompts, self.model.llm.embedding_size)
        prompts = together([p.prompts for p in pictures]) if pictures else torch.zeros(shape)
        updates: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                with self._turn:
                    arguments = (prompts.to(self.model.device), prompt, options)
                    answer = self.model.llm.stream(*arguments, tell=updates.put, stopped=stop.is_set)
                updates.put(answer)
                updates.put(None)
            except BaseException as error:  # raised again by whoever waits
                updates.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while (update := updates.get()) is not None:
                if isinstance(update, BaseException):
                    raise update
                yield update
        finally:
            stop.set()
            worker.join()

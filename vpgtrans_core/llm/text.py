"""A caption as token ids: what the LLM reads as context and what it must say."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from vpgtrans_core.data.sample import Caption


@dataclass(frozen=True)
class Text:
    """Token ids of one caption.

    Decoder-only: the row is ``[soft prompts][context][target]``; every token of `target` is a label. Without a prompt
    the context is empty and the target is ``[BOS] caption [end]`` (the paper's code labels BOS too).

    Encoder-decoder: `context` is the encoder's text after the soft prompts, its end token included; `target` is what
    the decoder must say.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]


class TextEncoder(ABC):
    """Turns captions into `Text`. Small and picklable: it travels to data workers, the model does not."""

    @abstractmethod
    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        """Return the ids of one caption, at most `max_tokens` long in context and in target together for decoder-only
        LLMs, in each of the two for encoder-decoders. `rng` is the sample's own (seed, epoch, index): the place where
        prefix language modelling splits a caption comes from it alone."""

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Return what stands between the soft prompts and the text that is generated after `prompt`."""
        raise NotImplementedError(f"{type(self).__name__} encodes no prompts")

    def __call__(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        return self.encode(caption, max_tokens, rng)


Clean = Callable[[str], str]

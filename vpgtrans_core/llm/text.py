"""A text as an LLM reads it: runs of tokens and places of images, some of the runs labelled."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vpgtrans_core.data.conversation import ImageMark, Span
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids in a row; the LLM learns to say them where they are labelled, and only reads them otherwise."""

    ids: tuple[int, ...]
    labelled: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where the soft prompts of one of the sample's images stand: of its `index`-th, from 0."""

    index: int = 0


Piece = Tokens | ImagePlace


@dataclass(frozen=True, slots=True)
class Text:
    """Pieces in the order in which they are read.

    Decoder-only: they are one row, and each labelled token is predicted at the position before it. A text therefore
    cannot begin with a label.

    Encoder-decoder: the encoder reads the pieces before the first label, the decoder has the rest. An image has no
    place in the decoder.

    Attributes:
        pieces: token runs and image places.
        cut: how many labels a limit of length has cut off.
        whole: how many tokens the longest part that the limit counts has when nothing is cut; 0 where no limit counted.
        end: what ends the answer that follows, as text; empty for the LLM's end of text.
    """

    pieces: tuple[Piece, ...]
    cut: int = field(default=0, kw_only=True)
    whole: int = field(default=0, kw_only=True, compare=False)
    end: str = field(default="", kw_only=True, compare=False)

    @classmethod
    def of(
        cls,
        context: Sequence[int],
        target: Sequence[int],
        *,
        before: Sequence[int] = (),
        cut: int = 0,
        whole: int = 0,
    ) -> Text:
        """A caption: ``[before][image][context][target]``, with every token of `target` labelled.

        Where a decoder-only LLM has its BOS after the image, as in the paper's code, `context` begins with it; without
        a prompt the context is empty and `target` begins with it, so that BOS is labelled too. An encoder-decoder's
        context has its end token.
        """
        pieces: list[Piece] = [Tokens(tuple(before)), ImagePlace()] if before else [ImagePlace()]
        if context:
            pieces.append(Tokens(tuple(context)))
        pieces.append(Tokens(tuple(target), labelled=True))
        return cls(tuple(pieces), cut=cut, whole=whole)

    def split(self) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """The pieces before the first labelled one, and the others."""
        pieces = self.pieces
        first = next((n for n, p in enumerate(pieces) if isinstance(p, Tokens) and p.labelled), len(pieces))
        return pieces[:first], pieces[first:]

    @property
    def context(self) -> tuple[int, ...]:
        """The tokens before the first label."""
        return tuple(i for piece in self.split()[0] if isinstance(piece, Tokens) for i in piece.ids)

    @property
    def target(self) -> tuple[int, ...]:
        """The labelled tokens."""
        return tuple(i for piece in self.pieces if isinstance(piece, Tokens) and piece.labelled for i in piece.ids)

    @property
    def labels(self) -> int:
        """How many tokens are labelled."""
        return sum(len(piece.ids) for piece in self.pieces if isinstance(piece, Tokens) and piece.labelled)

    @property
    def tokens(self) -> int:
        """How many tokens there are, labelled or not; soft prompts are not counted."""
        return length(self.pieces, 0)

    @property
    def image_places(self) -> list[int]:
        """Which of the pieces are images."""
        return [n for n, piece in enumerate(self.pieces) if isinstance(piece, ImagePlace)]

    @property
    def images(self) -> int:
        """How many images the text asks of its sample: one more than the largest index of a place."""
        return max((piece.index + 1 for piece in self.pieces if isinstance(piece, ImagePlace)), default=0)


def length(pieces: Iterable[Piece], num_prompts: int | Sequence[int]) -> int:
    """How many positions pieces take, with so many for an image, or for each of the sample's images."""
    return sum(len(piece.ids) if isinstance(piece, Tokens) else taken(piece, num_prompts) for piece in pieces)


def taken(place: ImagePlace, num_prompts: int | Sequence[int]) -> int:
    """How many positions an image takes."""
    return num_prompts if isinstance(num_prompts, int) else num_prompts[place.index]


class TextEncoder(ABC):
    """Turns captions and conversations into `Text`. Small and picklable: it travels to data workers, the model does
    not."""

    @abstractmethod
    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        """Return the ids of one caption, at most `max_tokens` long in context and in target together for decoder-only
        LLMs, in each of the two for encoder-decoders. `rng` is the sample's own (seed, epoch, index): the place where
        prefix language modelling splits a caption comes from it alone."""

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> Text:
        """Return a conversation's text, which a template has made spans of; `max_tokens` as in `encode`, None for no
        limit.

        Raises:
            BadSampleError: the LLM cannot read images where they stand.
            ModelError: this encoder knows captions only.
        """
        raise ModelError(
            f"{type(self).__name__} can encode captions, but not conversations",
            "train on captions, or add `encode_spans` to its plugin: see docs/plugins.md",
        )

    @abstractmethod
    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """What is read between an image's soft prompts and a caption that is generated."""

    def prompt_text(self, prompt: str) -> Text:
        """All that is read before a caption that is generated: the image, and what stands before and after it."""
        return Text((ImagePlace(), Tokens(self.prompt_ids(prompt))))

    def words(self, text: str) -> tuple[int, ...]:
        """The tokens of words that stand between the tiles of a picture.

        Raises:
            ModelError: this encoder knows none.
        """
        raise ModelError(
            f"{type(self).__name__} has no words for between the tiles of a picture",
            "add `words` to its plugin: see docs/plugins.md",
        )

    @property
    @abstractmethod
    def answer_end(self) -> int:
        """The token that ends an answer of a conversation."""

    def __call__(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        return self.encode(caption, max_tokens, rng)


def words_after_token(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The tokens of a text that stands behind a special token. Some tokenizers have another beginning for a text that
    stands alone."""

    def ids(spelled: str) -> tuple[int, ...]:
        return tuple(tokenizer(spelled, add_special_tokens=False).input_ids)

    token = str(tokenizer.eos_token or "")
    before, both = ids(token) if token else (), ids(token + text)
    return both[len(before) :] if both[: len(before)] == before else ids(text)


def limited(pieces: Iterable[Piece], max_tokens: int | None) -> Text:
    """The text of pieces, without what comes after `max_tokens` tokens and without empty runs."""
    kept: list[Piece] = []
    cut, whole = 0, 0
    for piece in pieces:
        room = None if max_tokens is None else max(0, max_tokens - whole)
        if isinstance(piece, ImagePlace):
            kept += [piece] if room != 0 else []
            continue
        ids = piece.ids[:room]
        whole += len(piece.ids)
        cut += (len(piece.ids) - len(ids)) * piece.labelled
        kept += [Tokens(ids, piece.labelled)] if ids else []
    return Text(tuple(kept), cut=cut, whole=whole)

"""Documents as token ids: what a decoder reads in one row, what an encoder-decoder reads on its two sides.

Rows have the form that vision-language training will bring: a context where the soft prompts will be, BOS, a caption
and an end of line (decoder); context and the caption's beginning in the encoder, its rest in the decoder.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vpgtrans_core.miniature.language import Document, Question, Word, Words, plain

Link = tuple[str, int, int]
"""``(kind, query position, key position)``: a place in a row that should look at another."""


@dataclass
class Row:
    """One row of token ids being written. `weights` are those of the tokens as labels; `hubs` the things' nouns."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    hubs: dict[int, int] = field(default_factory=dict)

    def add(self, ids: Sequence[int], weight: float) -> int:
        """Append tokens and return the position of the last."""
        self.ids += ids
        self.weights += [weight] * len(ids)
        return len(self.ids) - 1


class Reader:
    """Writes documents as rows with one tokenizer; words are looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, weights: dict[str, float]) -> None:
        self.tokenizer = tokenizer
        self.weights = weights
        self.word_ids = cache(self._word_ids)
        self.newline = self._after("a", "a\n")

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _after(self, before: str, whole: str) -> list[int]:
        return self._encode(whole)[len(self._encode(before)) :]

    def _word_ids(self, word: str, first: bool) -> list[int]:
        """The ids of a word at the beginning of a text or inside it."""
        return self._encode(word) if first else self._after("a", f"a {word}")

    def read(self, document: Document, rng: random.Random) -> Row | Pair:
        """A document as a `Row`, or as a `Pair` for an encoder-decoder."""
        raise NotImplementedError

    def words(self, row: Row, words: Words, weight: float) -> list[int]:
        """Append words to the row and return the position of each word's last token."""
        return [row.add(self.word_ids(w.text, i == 0), weight) for i, w in enumerate(words)]

    def context(self, row: Row, words: Words, weight: float) -> None:
        """Append the document's context; nouns become hubs that look at their own colour and size."""
        ends = self.words(row, words, weight)
        where = {(w.thing, w.role): end for w, end in zip(words, ends, strict=True) if w.thing is not None}
        for (thing, role), end in where.items():
            if role == "noun":
                row.hubs[thing] = end
                row.links += [(kind, end, where[thing, kind]) for kind in ("colour", "size")]


def asking(question: Question, short: bool) -> Words:
    """The question in the paper's form, up to its answer."""
    return [*plain("question:"), *question.words, *plain("? short answer:" if short else "? answer:")]


def _kinds(words: Words) -> list[str | None]:
    """How each word of a second text is found in the context: by the colour just said, or as the other thing.

    Until its first noun a text may turn to either thing, so those words are not linked.
    """
    kinds: list[str | None] = []
    nouns = 0
    for word in words:
        later = nouns > 0 and word.role in ("size", "colour")
        kinds.append("noun" if word.role == "noun" else "other" if later else None)
        nouns += word.role == "noun"
    return kinds


class DecoderReader(Reader):
    """Rows ``[BOS] context [BOS or end of line] text end-of-line ...`` for decoder-only LLMs."""

    def read(self, document: Document, rng: random.Random) -> Row:
        """Write one document. Half of the rows open with BOS, the others have it where soft prompts will end."""
        row = Row()
        bos = [self.tokenizer.bos_token_id]
        if not document.context:
            row.add(bos, 0.0)
        elif rng.random() < 0.25:
            row.add(bos, 0.0)
            self.context(row, document.context, self.weights["caption"])
            row.add(self.newline, self.weights["caption"])
        else:
            self.context(row, document.context, self.weights["caption"])
            row.add(bos, self.weights["caption"])
        if document.second:
            self._second(row, document.second)
        for question in document.asked:
            self._question(row, question)
        row.links += [("previous", i, i - 1) for i in range(1, len(row.ids))]
        return row

    def _second(self, row: Row, words: Words) -> None:
        for i, (word, kind) in enumerate(zip(words, _kinds(words), strict=True)):
            self._say(row, word, kind, self.weights["second"], first=i == 0)
        row.add(self.newline, self.weights["second"])

    def _question(self, row: Row, question: Question) -> None:
        self.words(row, asking(question, short=False), self.weights["question"])
        kind = {"answer": "noun", "other": "other"}.get(question.answer.role or "")
        self._say(row, question.answer, kind, self.weights["answer"], first=False)
        row.add(self.newline, self.weights["second"])

    def _say(self, row: Row, word: Word, kind: str | None, weight: float, *, first: bool) -> None:
        """Append a word; the position before it looks at the hub of the word's thing."""
        if kind and word.thing in row.hubs:
            row.links.append((kind, len(row.ids) - 1, row.hubs[word.thing]))
        row.add(self.word_ids(word.text, first), weight)


@dataclass
class Pair:
    """What an encoder-decoder reads and says."""

    encoder: Row
    decoder: Row


class EncoderDecoderReader(Reader):
    """Encoder ``context beginning </s>``, decoder ``rest </s>``: the prefix form of vision-language training."""

    def read(self, document: Document, rng: random.Random) -> Pair:
        """Write one document; of several questions the first, of a second text a random beginning or none."""
        encoder, decoder = Row(), Row()
        self.context(encoder, document.context, 0.0)
        if document.asked:
            self._question(encoder, decoder, document.asked[0])
        else:
            cut = 0 if rng.random() < 0.4 else rng.randrange(len(document.second))
            self.words(encoder, document.second[:cut], 0.0)
            self._rest(encoder, decoder, document.second, cut)
        for row in (encoder, decoder):
            row.add([self.tokenizer.eos_token_id], self.weights["second"])
        return Pair(encoder, decoder)

    def _question(self, encoder: Row, decoder: Row, question: Question) -> None:
        words = asking(question, short=True)
        for word, end in zip(words, self.words(encoder, words, 0.0), strict=True):
            if word.role == "asked" and word.thing in encoder.hubs:
                encoder.links.append(("asked", end, encoder.hubs[word.thing]))
        kind = {"answer": "noun", "other": "other"}.get(question.answer.role or "")
        self._say(encoder, decoder, question.answer, kind, self.weights["answer"], first=True)

    def _rest(self, encoder: Row, decoder: Row, words: Words, cut: int) -> None:
        for i, (word, kind) in enumerate(zip(words, _kinds(words), strict=True)):
            if i >= cut:
                self._say(encoder, decoder, word, kind, self.weights["second"], first=i == cut)

    def _say(self, encoder: Row, decoder: Row, word: Word, kind: str | None, weight: float, *, first: bool) -> None:
        if kind and word.thing in encoder.hubs:
            decoder.links.append((kind, len(decoder.ids), encoder.hubs[word.thing]))
        decoder.add(self.word_ids(word.text, first), weight)


def pad(rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
    """Stack rows of unlike length as ``[B, T]``, filled up on the right."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=dtype)

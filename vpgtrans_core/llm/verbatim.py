"""Tokens of a rendered chat template, as transformers tokenizes it: special tokens and all, nothing added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from vpgtrans_core.data.conversation import ImageMark, Span
from vpgtrans_core.llm.text import ImagePlace, Piece, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def verbatim_pieces(spans: Sequence[Span | ImageMark], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Spans and images as pieces.

    The text between two images is tokenized as a whole, so that words are as they are in the rendered text. Each answer
    is the tokens that its prompt lacks. Where a prompt's own tokens are not the beginning of those of both, the two are
    tokenized apart: the LLM will read the prompt's own when it answers.
    """
    pieces: list[Piece] = []
    for image, stretch in groupby(spans, key=lambda span: isinstance(span, ImageMark)):
        if image:
            pieces += [ImagePlace(mark.index) for mark in stretch if isinstance(mark, ImageMark)]
        else:
            pieces += _stretch([s for s in stretch if isinstance(s, Span)], tokenizer, inside=bool(pieces))
    return pieces


def _stretch(spans: list[Span], tokenizer: PreTrainedTokenizerBase, *, inside: bool) -> Iterator[Tokens]:
    text = ""
    before: tuple[int, ...] = ()
    for span in spans:
        ids = _ids(text + span.text, tokenizer, inside)
        if ids[: len(before)] == before:
            new, text = ids[len(before) :], text + span.text
        else:
            new = ids = _ids(span.text, tokenizer, True)
            text, inside = span.text, True
        before = ids
        if new:
            yield Tokens(new, span.labelled)


def _ids(text: str, tokenizer: PreTrainedTokenizerBase, inside: bool) -> tuple[int, ...]:
    """A text's ids; `inside` another text as they are after a special token, which some tokenizers treat unlike the
    beginning of a text."""
    mark = str(tokenizer.eos_token or "") if inside else ""
    ids = tuple(tokenizer(mark + text, add_special_tokens=False, verbose=False).input_ids)
    if not mark:
        return ids
    if ids[:1] == (tokenizer.eos_token_id,):
        return ids[1:]
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

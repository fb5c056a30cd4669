"""Token ids and the rows of the embedding table: a tokenizer may have more tokens than its model embeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.text import Text, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES, AROUND = 1000, 100
"""How many places with the text of a token are looked at, and how many bytes around each."""


def check_ids(texts: Iterable[Text], tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Check that the model embeds every token of some texts.

    Many published tokenizers have tokens that were added without resizing the model (often ``[PAD]``). They do no
    harm until a text contains one.

    Args:
        texts: encoded texts.
        tokenizer: the tokenizer that encoded them.
        rows: rows of the model's embedding table.

    Raises:
        ModelError: a token id is not below `rows`; names the token.
    """
    largest = max(
        (max(piece.ids) for text in texts for piece in text.pieces if isinstance(piece, Tokens) and piece.ids),
        default=0,
    )
    if largest >= rows:
        needed = max(len(tokenizer), largest + 1)
        raise ModelError(
            f"a text contains the token {tokenizer.convert_ids_to_tokens(largest)!r} (id {largest}), but the model's "
            f"embedding table has only {rows} rows",
            f"resize the table and save the model again: model.resize_token_embeddings({needed}); or copy the model's "
            "own tokenizer into its folder; or remove the token from the texts",
        )


def check_tokens(texts: Iterable[bytes], tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Look for tokens that the model does not embed in all texts of a data set, before any is trained on.

    Only those that are looked for as they are written (added tokens) can be found without encoding everything; what a
    tokenizer makes of parts of words is seen in the first batch.

    Args:
        texts: UTF-8, many texts in each.

    Raises:
        ModelError: as `check_ids`.
    """
    beyond = {str(token): i for i, token in tokenizer.added_tokens_decoder.items() if i >= rows}
    if not beyond:
        return
    for part in texts:
        for token, number in beyond.items():
            if any(number in tokenizer(text).input_ids for text in _around(token.encode(), part)):
                check_ids([Text((Tokens((number,)),))], tokenizer, rows)


def _around(token: bytes, texts: bytes) -> Iterator[str]:
    """The first places in which a token is written, with some text around each: it may be a part of a word."""
    place, seen = texts.find(token) if token else -1, 0
    while place >= 0 and seen < PLACES:
        yield texts[max(0, place - AROUND) : place + len(token) + AROUND].decode(errors="ignore")
        place, seen = texts.find(token, place + len(token)), seen + 1


def within(ids: Iterable[int | None], rows: int) -> list[int]:
    """The ids that the table has a row for, each once and in order."""
    return [i for i in dict.fromkeys(ids) if i is not None and i < rows]

"""Token ids and the rows of the embedding table: a tokenizer may have more tokens than its model embeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.text import Text, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def within(ids: Iterable[int | None], rows: int) -> list[int]:
    """The ids that the table has a row for, each once and in order."""
    return [i for i in dict.fromkeys(ids) if i is not None and i < rows]

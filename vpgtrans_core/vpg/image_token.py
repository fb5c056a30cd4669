"""``<image>``: the token whose place in a prompt the soft prompts take.

transformers wants it to be a row of the LLM's embedding table, and the processor wants the tokenizer to know it by that
name. Its embedding is never read, so any row that no text uses will do. A table that must grow for it changes the
LLM's logits by one row, so that is the last resort.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, PreTrainedTokenizerFast

from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE = "<image>"
OWN_START = (
    "add_bos_token",
    "add_eos_token",
    "tokenizer_class",
    "tokenizer_file",
    "vocab_file",
    "vocab",
    "merges",
    "backend",
)
"""What a tokenizer class makes its own start of a text from, or itself."""


@dataclass(frozen=True)
class ImageToken:
    """The tokenizer that knows ``<image>``, its id, and whether the embedding table must grow to hold that id."""

    tokenizer: PreTrainedTokenizerBase
    id: int
    grows: bool


def with_image_token(tokenizer: PreTrainedTokenizerBase, rows: int, used: Collection[int]) -> ImageToken:
    """Find a row for ``<image>`` and return a copy of the tokenizer that maps the name to it.

    In this order: the token that is already there; a spare row behind the vocabulary (OPT, T5, Qwen...); a special
    token that neither the model nor the tokenizer uses; the unknown token (unused where every text can be spelled in
    bytes; elsewhere a prompt with an unknown word then fails loudly); a new row.

    Args:
        tokenizer: the LLM's; it is not changed.
        rows: rows of the LLM's embedding table.
        used: ids that the model's config gives a meaning (end, padding, start).
    """
    tokenizer = copy.deepcopy(tokenizer)
    vocabulary = tokenizer.get_vocab()
    full = max(vocabulary.values()) + 1 >= rows
    if IMAGE not in vocabulary and full and (free := _unused_token(tokenizer, rows, used)) is not None:
        return ImageToken(_renamed(tokenizer, free), vocabulary[free], grows=False)
    tokenizer.add_tokens([AddedToken(IMAGE, normalized=False, special=True)], special_tokens=True)
    found = tokenizer.get_vocab()[IMAGE]
    return ImageToken(tokenizer, found, grows=found >= rows)


def put_start_before_images(token: ImageToken, start: Sequence[int], images: int) -> PreTrainedTokenizerBase:
    """A tokenizer that begins every text with its start tokens and `images` image tokens.

    Raises:
        ModelError: the tokenizer has no backend of the tokenizers library, which alone knows templates.
    """
    tokenizer: Any = token.tokenizer
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"{type(tokenizer).__name__} cannot be told to put image tokens after the start token",
            "give --bos after, or save with --save vpg",
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    names = tokenizer.convert_ids_to_tokens(list(start))
    opening = {"id": "opening", "ids": [*start, *[token.id] * images], "tokens": [*names, *[IMAGE] * images]}
    backend.post_processor = TemplateProcessing(single="opening $A", pair="opening $A $B:1", special_tokens=[opening])
    # A class of its own (Gemma's, LLaMA's) would put its usual start in the template's place when it is loaded.
    own = {k: v for k, v in tokenizer.init_kwargs.items() if k not in OWN_START}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **own)


def _unused_token(tokenizer: Any, rows: int, used: Collection[int]) -> str | None:
    """A special token of the table that no text contains and that has no meaning; else the unknown token."""
    roles = {"bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token"}
    taken = {tokenizer.convert_tokens_to_ids(t) for r in roles if (t := getattr(tokenizer, r, None)) is not None}
    taken |= set(tokenizer("a\n").input_ids) - {tokenizer.unk_token_id} | set(used)
    special = [
        t for i, t in sorted(tokenizer.added_tokens_decoder.items()) if t.special and i < rows and i not in taken
    ]
    names = [t.content for t in special if t.content != tokenizer.unk_token]
    unknown = [t.content for t in special if t.content == tokenizer.unk_token]
    return next(iter(names + unknown), None) if getattr(tokenizer, "backend_tokenizer", None) else None


def _renamed(tokenizer: Any, old: str) -> PreTrainedTokenizerBase:
    """The tokenizer with the token `old` called ``<image>``; ids stay as they are."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {IMAGE if token == old else token: i for token, i in model["vocab"].items()}
    else:  # a unigram vocabulary: pieces with their scores, in the order of their ids
        model["vocab"] = [[IMAGE if piece == old else piece, score] for piece, score in model["vocab"]]
    if model.get("unk_token") == old:
        model["unk_token"] = IMAGE
    for token in state["added_tokens"]:
        if token["content"] == old:
            token["content"] = IMAGE
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    for role, name in tokenizer.special_tokens_map.items():
        if name == old:
            setattr(tokenizer, role, IMAGE)
    tokenizer.init_kwargs = {k: IMAGE if str(v) == old else v for k, v in tokenizer.init_kwargs.items()}
    return tokenizer

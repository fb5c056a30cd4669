"""``<image>``: the token whose place in a prompt the soft prompts take, and a family's tokens around it.

transformers wants each to be a row of the LLM's embedding table, and the processor wants the tokenizer to know them by
their names. The embedding of ``<image>`` is never read, so any row that no text uses will do; those of the others are
written. A table that must grow for them changes the LLM's logits by so many rows, so that is the last resort.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping, Sequence
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
    """The tokenizer that knows ``<image>``, its id, and those of a family's other tokens.

    Attributes:
        others: the ids of the other tokens, in the order in which they were asked for.
        added: ids of both kinds that the embedding table must grow to hold.
    """

    tokenizer: PreTrainedTokenizerBase
    id: int
    others: tuple[int, ...] = ()
    added: tuple[int, ...] = ()

    @property
    def grows(self) -> bool:
        """Whether the embedding table must grow to hold ``<image>``."""
        return self.id in self.added


def with_image_token(
    tokenizer: PreTrainedTokenizerBase, rows: int, used: Collection[int], others: Sequence[str] = ()
) -> ImageToken:
    """Find a row for ``<image>``, and one for each of a family's other tokens, and return a copy of the tokenizer that
    maps the names to them.

    In this order: the token that is already there; a spare row behind the vocabulary (OPT, T5, Qwen...); a special
    token that neither the model nor the tokenizer uses; for ``<image>``, whose embedding nothing reads, the unknown
    token (unused where every text can be spelled in bytes; elsewhere a prompt with an unknown word then fails loudly);
    a new row.

    Args:
        tokenizer: the LLM's; it is not changed.
        rows: rows of the LLM's embedding table.
        used: ids that the model's config gives a meaning (end, padding, start).
        others: names of further tokens, whose embeddings are written.
    """
    tokenizer = copy.deepcopy(tokenizer)
    vocabulary = tokenizer.get_vocab()
    missing = [name for name in (IMAGE, *others) if name not in vocabulary]
    if late := missing[max(0, rows - max(vocabulary.values()) - 1) :]:
        free, unknown = _unused_tokens(tokenizer, rows, used)
        free = unknown if late[0] == IMAGE and not free else free
        if names := dict(zip(free, late, strict=False)):
            tokenizer = _renamed(tokenizer, names)
            missing = [name for name in missing if name not in names.values()]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=True) for name in missing], special_tokens=True)
    ids = [tokenizer.get_vocab()[name] for name in (IMAGE, *others)]
    return ImageToken(tokenizer, ids[0], tuple(ids[1:]), tuple(i for i in ids if i >= rows))


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


def _unused_tokens(tokenizer: Any, rows: int, used: Collection[int]) -> tuple[list[str], list[str]]:
    """The special tokens of the table that no text contains and that have no meaning; and the unknown token, if it is
    one of them."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return [], []
    roles = {"bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token"}
    taken = {tokenizer.convert_tokens_to_ids(t) for r in roles if (t := getattr(tokenizer, r, None)) is not None}
    taken |= set(tokenizer("a\n").input_ids) - {tokenizer.unk_token_id} | set(used)
    template = str(tokenizer.chat_template or "")
    special = [
        t.content
        for i, t in sorted(tokenizer.added_tokens_decoder.items())
        if t.special and i < rows and i not in taken and t.content not in template
    ]
    unknown = [name for name in special if name == tokenizer.unk_token]
    return [name for name in special if name not in unknown], unknown


def _renamed(tokenizer: Any, names: Mapping[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer with some tokens called by other names; ids stay as they are."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:  # a unigram vocabulary: pieces with their scores, in the order of their ids
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    for role, name in tokenizer.special_tokens_map.items():
        if isinstance(name, str) and name in names:
            setattr(tokenizer, role, names[name])
    tokenizer.init_kwargs = {k: names.get(str(v), v) for k, v in tokenizer.init_kwargs.items()}
    return tokenizer

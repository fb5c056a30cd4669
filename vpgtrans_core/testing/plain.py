"""The plainest computation of a loss: one text at a time, no padding, no mask, all logits. What adapters must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vpgtrans_core.llm.text import ImagePlace, Piece, Text, Tokens

SCALE_FREE = 1e-12


def plain_loss(
    model: Any, soft_prompts: Tensor, texts: Sequence[Sequence[Text]], images: Sequence[int] | None = None
) -> Tensor:
    """Sum of the cross-entropies of all labels with soft prompts ``[I, Q, D]`` as `inputs_embeds`; `images` says how
    many images each sample has, default one."""
    words = model.get_input_embeddings()
    total = soft_prompts.new_zeros(())
    for prompts, sample in zip(soft_prompts.split(list(images or [1] * len(texts))), texts, strict=True):
        for text in sample:
            read, said = _parts(model, text)
            inputs = [prompts[p.index] if isinstance(p, ImagePlace) else words(torch.tensor(p.ids)) for p in read]
            total = total + _loss(model, read, said, prompts.shape[1], inputs_embeds=torch.cat(inputs)[None])
    return total


def plain_loss_of_ids(model: Any, prompt_ids: Tensor, texts: Sequence[Sequence[Text]]) -> Tensor:
    """The same with words in the place of soft prompts, ``[I, Q]``: everything enters as `input_ids`."""
    total = torch.zeros(())
    for prompts, sample in zip(prompt_ids, texts, strict=True):
        for text in sample:
            read, said = _parts(model, text)
            ids = [prompts if isinstance(p, ImagePlace) else torch.tensor(p.ids) for p in read]
            total = total + _loss(model, read, said, len(prompts), input_ids=torch.cat(ids)[None])
    return total


def _parts(model: Any, text: Text) -> tuple[Sequence[Piece], Sequence[Piece]]:
    """The pieces that enter as the model's input, and those whose labels count."""
    return text.split() if model.config.is_encoder_decoder else (text.pieces, text.pieces)


def _loss(model: Any, read: Sequence[Piece], said: Sequence[Piece], prompts: int, **inputs: Tensor) -> Tensor:
    labels = torch.tensor([label for piece in said for label in _labels(piece, prompts)])
    if model.config.is_encoder_decoder:
        ids = [i for piece in said if isinstance(piece, Tokens) for i in piece.ids]
        begun = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
        logits = model(**inputs, decoder_input_ids=begun, use_cache=False).logits[0]
        return functional.cross_entropy(logits, labels, reduction="sum")
    logits = model(**inputs, use_cache=False).logits[0]
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")


def _labels(piece: Piece, prompts: int) -> Sequence[int]:
    """What each position of a piece is labelled with; -100, which counts for nothing, where it has no label."""
    if isinstance(piece, ImagePlace):
        return [-100] * prompts
    return piece.ids if piece.labelled else [-100] * len(piece.ids)


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative difference of two tensors of one shape."""
    return float((found - wanted).norm() / (wanted.norm() + SCALE_FREE))

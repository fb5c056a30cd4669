"""The plainest computation of a loss: one text at a time, no padding, no mask, all logits. What adapters must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vpgtrans_core.llm.text import Text

SCALE_FREE = 1e-12


def plain_loss(model: Any, soft_prompts: Tensor, texts: Sequence[Sequence[Text]]) -> Tensor:
    """Sum of the cross-entropies of all targets with soft prompts ``[I, Q, D]`` as `inputs_embeds`."""
    words = model.get_input_embeddings()
    total = soft_prompts.new_zeros(())
    for prompts, image in zip(soft_prompts, texts, strict=True):
        for text in image:
            ids = torch.tensor(text.context if model.config.is_encoder_decoder else text.context + text.target)
            inputs = torch.cat([prompts, words(ids.long())])[None]
            total = total + _loss(model, text, inputs_embeds=inputs)
    return total


def plain_loss_of_ids(model: Any, prompt_ids: Tensor, texts: Sequence[Sequence[Text]]) -> Tensor:
    """The same with words in the place of soft prompts, ``[I, Q]``: everything enters as `input_ids`."""
    total = torch.zeros(())
    for prompts, image in zip(prompt_ids, texts, strict=True):
        for text in image:
            ids = text.context if model.config.is_encoder_decoder else text.context + text.target
            total = total + _loss(model, text, input_ids=torch.cat([prompts, torch.tensor(ids).long()])[None])
    return total


def _loss(model: Any, text: Text, **inputs: Tensor) -> Tensor:
    targets = torch.tensor(text.target)
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        said = torch.tensor([[start, *text.target[:-1]]])
        logits = model(**inputs, decoder_input_ids=said, use_cache=False).logits[0]
    else:
        logits = model(**inputs, use_cache=False).logits[0, -len(targets) - 1 : -1]
    return functional.cross_entropy(logits, targets, reduction="sum")


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative difference of two tensors of one shape."""
    return float((found - wanted).norm() / (wanted.norm() + SCALE_FREE))

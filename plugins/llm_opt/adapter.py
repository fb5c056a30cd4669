"""The OPT adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vpgtrans_core.llm.decoder import DecoderOnlyLLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OPT(DecoderOnlyLLM):
    """OPT. Its 350m has word embeddings narrower than its blocks; the projections between them are folded away here."""

    keep_precise = ("lm_head", "project_in", "project_out")

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> PreTrainedModel:
        """Fold `project_in` into the embedding table and `project_out` into an untied head.

        transformers sends `inputs_embeds` through `project_in`, so that soft prompts of the blocks' width could not
        enter otherwise. The folded model computes the same and is saved as an OPT without projections.
        """
        decoder = model.get_decoder()
        if decoder.project_in is None:
            return model
        words = decoder.embed_tokens
        table = _product(words.weight, decoder.project_in.weight.T)
        head = _product(model.get_output_embeddings().weight, decoder.project_out.weight)
        decoder.embed_tokens = nn.Embedding.from_pretrained(table, padding_idx=words.padding_idx)
        model.set_output_embeddings(_linear(head))
        decoder.project_in = decoder.project_out = None
        model.config.word_embed_proj_dim = model.config.hidden_size
        model.config.tie_word_embeddings = False
        return model


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in at least fp32, rounded once to the precision of `a`."""
    precise = torch.promote_types(a.dtype, torch.float32)
    with torch.no_grad():
        return (a.to(precise) @ b.to(precise)).to(a.dtype)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer

"""Granite's factor between its table of words and its first block, moved into the table."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.embeddings import EmbeddingReader


class Granite(DecoderOnlyLLM):
    """The factor would go for soft prompts, too, and multiply every gradient of the projector."""

    @classmethod
    def prepare(cls, model: Any) -> Any:
        factor = model.config.embedding_multiplier
        if factor == 1:  # the folder of such a model, loaded again
            return model
        words, head = model.get_input_embeddings(), model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)  # tied: it keeps the old table
        words.weight = nn.Parameter(words.weight.detach() * factor, requires_grad=False)
        model.config.embedding_multiplier = model.model.embedding_multiplier = 1.0
        model.config.tie_word_embeddings = False
        return model


class GraniteEmbeddings(EmbeddingReader):
    """The checkpoint's table times the factor, read without loading the model."""

    def vectors(self, rows: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        return rows * self.config.embedding_multiplier

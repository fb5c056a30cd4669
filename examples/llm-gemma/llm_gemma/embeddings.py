"""Gemma's word embeddings as its first block sees them."""

from collections.abc import Mapping

from torch import Tensor

from vpgtrans_core.llm.embeddings import EmbeddingReader


class GemmaEmbeddings(EmbeddingReader):
    """The checkpoint's table times the square root of its width."""

    def vectors(self, rows: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        return rows * self.config.hidden_size**0.5

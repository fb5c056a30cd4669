"""OPT's word embeddings as its first block sees them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vpgtrans_core.llm.embeddings import EmbeddingReader

PROJECTION = "model.decoder.project_in.weight"


class OPTEmbeddings(EmbeddingReader):
    """The table; where it is narrower than the blocks (350m), behind `project_in`."""

    def extra(self) -> tuple[str, ...]:
        return (PROJECTION,) if self.config.word_embed_proj_dim != self.config.hidden_size else ()

    def vectors(self, rows: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        return rows @ extra[PROJECTION].T if extra else rows

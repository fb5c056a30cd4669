"""OPT: Meta's decoder-only LLMs, the first family of the paper."""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import EmbeddingAccess, LLMFamily

VPGT_API = 1


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    from llm_opt.cards import CARDS

    return [
        LLMFamily(
            name="opt",
            model_types=("opt",),
            adapter="llm_opt.adapter:OPT",
            cards=CARDS,
            half="float16",
            bos="after",
            batch_size=1728,
        )
    ]


@hookimpl
def vpgt_embedding_access() -> list[EmbeddingAccess]:
    return [EmbeddingAccess(model_types=("opt",), reader="llm_opt.embeddings:OPTEmbeddings")]

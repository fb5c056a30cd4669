"""Gemma for vpgt. Its quirk: word embeddings are multiplied by the square root of their width before the first block.

Soft prompts stand where the first block reads, so the word converter must see the table times that factor.
"""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import EmbeddingAccess, LLMCard, LLMFamily

VPGT_API = 1
LICENCE = "Gemma Terms of Use"
HEADS = {"head_dim": 256}  # wider together than the hidden size in the 7b

CARDS = (
    LLMCard(
        alias="gemma-2b",
        hub_id="google/gemma-2b",
        parameters=2_506_172_416,
        hidden_size=2048,
        layers=18,
        heads=8,
        kv_heads=1,
        intermediate_size=16384,
        vocab_size=256000,
        licence=LICENCE,
        config=HEADS,
    ),
    LLMCard(
        alias="gemma-7b",
        hub_id="google/gemma-7b",
        parameters=8_537_680_896,
        hidden_size=3072,
        layers=28,
        heads=16,
        kv_heads=16,
        intermediate_size=24576,
        vocab_size=256000,
        licence=LICENCE,
        config=HEADS,
    ),
)


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    adapter = "vpgtrans_core.llm.decoder:DecoderOnlyLLM"  # nothing else is unusual about running it
    return [LLMFamily(name="gemma", model_types=("gemma",), adapter=adapter, cards=CARDS)]


@hookimpl
def vpgt_embedding_access() -> list[EmbeddingAccess]:
    return [EmbeddingAccess(model_types=("gemma",), reader="llm_gemma.embeddings:GemmaEmbeddings")]

"""Granite for vpgt. Its quirk: it multiplies whatever enters it by `embedding_multiplier` before the first block.

Soft prompts stand where the first block reads, so adapter and reader move that factor into the table of words.
"""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import EmbeddingAccess, LLMCard, LLMFamily

VPGT_API = 1
MULTIPLIERS = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "tie_word_embeddings": True}
VPGT_CONFORMANCE = {"granite": {"config": {**MULTIPLIERS, "logits_scaling": 8.0}}}

CARDS = (
    LLMCard(
        alias="granite-3.0-2b",
        hub_id="ibm-granite/granite-3.0-2b-base",
        parameters=2_533_531_648,
        hidden_size=2048,
        layers=40,
        heads=32,
        kv_heads=8,
        intermediate_size=8192,
        vocab_size=49155,
        licence="Apache-2.0",
        config={**MULTIPLIERS, "attention_multiplier": 0.015625, "logits_scaling": 8.0},
    ),
)


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    return [LLMFamily(name="granite", model_types=("granite",), adapter="llm_granite.adapter:Granite", cards=CARDS)]


@hookimpl
def vpgt_embedding_access() -> list[EmbeddingAccess]:
    return [EmbeddingAccess(model_types=("granite",), reader="llm_granite.adapter:GraniteEmbeddings")]

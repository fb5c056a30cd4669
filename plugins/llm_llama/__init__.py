"""LLaMA and what grew from it: Alpaca, Vicuna, Llama 2 and 3."""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

VPGT_API = 1


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    from llm_llama.cards import CARDS

    return [
        LLMFamily(
            name="llama",
            model_types=("llama",),
            adapter="vpgtrans_core.llm.decoder:DecoderOnlyLLM",
            cards=CARDS,
            half="bfloat16",
            compiles=True,
            batch_size=1728,
        )
    ]

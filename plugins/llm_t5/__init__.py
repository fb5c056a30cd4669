"""T5 and FlanT5: encoder-decoders, trained with the paper's prefix language modelling."""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

VPGT_API = 1


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    from llm_t5.cards import CARDS

    return [
        LLMFamily(
            name="t5",
            model_types=("t5",),
            adapter="llm_t5.adapter:T5",
            cards=CARDS,
            encoder_decoder=True,
            half="bfloat16",
            compiles=True,
            batch_size=1152,
            question_prompt="Question: {} Short answer:",
        )
    ]

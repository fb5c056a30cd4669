"""Sketch for vpgt: a decoder whose class transformers does not have.

`classes` names the module that registers it. vpgt imports that module before it reads a config of the family, so that
plan, transfer and `vpgt caption` know it; the README of a finished model imports it for users of transformers alone.
"""

from vpgtrans_core import hookimpl
from vpgtrans_core.cards import LLMFamily

VPGT_API = 1


@hookimpl
def vpgt_llm_families() -> list[LLMFamily]:
    return [
        LLMFamily(
            name="sketch",
            model_types=("sketch",),
            adapter="vpgtrans_core.llm.decoder:DecoderOnlyLLM",
            classes="llm_sketch.modeling",
        )
    ]

"""The family of a language model that no plugin knows: whatever transformers itself can load."""

from __future__ import annotations

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.errors import ModelError, did_you_mean


def fallback_family(model_type: str) -> LLMFamily:
    """Describe the family of a model from its config's `model_type` alone.

    Raises:
        ModelError: transformers knows no language model of that type.
    """
    from transformers.models.auto import modeling_auto

    seq2seq = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type in seq2seq:
        return LLMFamily(
            name=model_type,
            model_types=(model_type,),
            adapter="vpgtrans_core.llm.encoder_decoder:EncoderDecoderLLM",
            encoder_decoder=True,
        )
    if model_type in causal:
        return LLMFamily(name=model_type, model_types=(model_type,), adapter="vpgtrans_core.llm.any_causal:AnyCausalLM")
    guess = did_you_mean(model_type, [*causal, *seq2seq])
    raise ModelError(
        f"transformers does not support language models of type {model_type!r}",
        guess or "a newer transformers or a plugin for this family may support it: see docs/plugins.md",
    )

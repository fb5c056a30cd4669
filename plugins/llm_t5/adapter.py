"""The T5 adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class T5(EncoderDecoderLLM):
    """T5 and FlanT5.

    Positions are relative, so segments are packed. Captions are split as in the paper: a random prefix goes into the
    encoder after the soft prompts. fp16 overflows in T5's feed-forward layers, hence bfloat16 on a GPU.

    The activation is the config's (``gelu_new`` for FlanT5). The paper's code sets exact gelu instead; a checkpoint of
    its making can be given a config with ``dense_act_fn = "gelu"`` to compute precisely what it computed in training.
    """

    relative_positions = True
    splits_captions = True
    bool_kernels = ("sdpa", "sdpa_shared_bias")

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> PreTrainedModel:
        """Replace ``gelu_new``, five products that each keep a tensor for the backward pass, by torch's one operation
        of the same function; and let the layers share their bias."""
        from transformers.activations import ACT2FN

        from llm_t5.shared_bias import share_bias

        composed = type(ACT2FN["gelu_new"])
        for module in model.modules():
            if isinstance(getattr(module, "act", None), composed):
                module.act = ACT2FN["gelu_pytorch_tanh"]
        share_bias(model)
        return model

"""T5's attention with what its layers have in common computed once.

T5 adds a bias for relative positions to the scores, the same in all layers of a stack. transformers puts it and the
mask together in every layer, for every row and head, and each layer keeps the result for the backward pass. Here the
first layer's bias gets the mask, and the others take it as it is. The cross-attention has no bias at all: transformers
makes one of zeros for every head, and here the mask alone is used. What is computed is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_shared_bias"
"""The kernel's name among transformers'."""
BIAS = "_bias"
"""The attribute by which an attention knows its bias: ``masked`` or ``none``."""


def share_bias(model: PreTrainedModel) -> None:
    """Let the layers of a T5 on torch's own attention share their bias."""
    if model.config._attn_implementation != "sdpa":
        return
    for stack in (model.get_encoder(), model.get_decoder()):
        blocks: Any = stack.block
        for number, block in enumerate(blocks):
            if number:
                setattr(block.layer[0].SelfAttention, BIAS, "masked")
            if len(block.layer) == 3:
                setattr(block.layer[1].EncDecAttention, BIAS, "none")
        blocks[0].register_forward_hook(_with_mask)
    model.set_attn_implementation(NAME)


def _with_mask(block: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first block's outputs, in whose bias ``[1, H, L, L]`` the mask is, too: ``[R, H, L, L]``."""
    states, bias, *more = outputs
    mask = inputs[1] if len(inputs) > 1 else None
    if mask is None or bias is None or _kernel(block) != NAME:
        return outputs
    return states, _masked(bias, mask.to(bias.device)), *more


def _kernel(block: Any) -> str:
    name: str = block.layer[0].SelfAttention.config._attn_implementation
    return name


def _masked(bias: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention by torch's kernel; an additive mask takes the place of mask and bias where it can."""
    kind = getattr(module, BIAS, "")
    if attention_mask is not None and kind:
        attention_mask, position_bias = (position_bias if kind == "masked" else attention_mask), None
    elif kind == "none":
        position_bias = None
    given: Any = sdpa_attention_forward(module, query, key, value, attention_mask, position_bias=position_bias, **more)
    return given


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

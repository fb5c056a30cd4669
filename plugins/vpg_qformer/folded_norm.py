"""The ViT's last norm as a part of the Q-Former's weights, while it is trained.

The norm ends in a scale ``g`` and a shift ``b``, and only the cross-attention's keys and values read what it gives:
``W (g x + b) + c = (W g) x + (W b + c)``. So scale and shift may be multiplied into the weights instead. The function
and all gradients are the same, but what is left to attend to, the plain normalised features ``x``, has nothing to learn
before it: the gradient of the image's positions, a product with the weights of each key and value, is not computed.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

READERS = ("crossattention.attention.key", "crossattention.attention.value")
"""The linear layers of a Q-Former that read the image."""


def ask_with_folded_norm(qformer: nn.Module, norm: nn.LayerNorm, queries: Tensor, features: Tensor) -> Tensor:
    """Let `queries` ``[B, Q, D]`` ask ``norm(features)``, features ``[B, N, C]``; returns ``[B, Q, D]``."""
    plain = functional.layer_norm(features.to(norm.weight.dtype), norm.normalized_shape, eps=norm.eps)
    inputs = {"query_embeds": queries, "encoder_hidden_states": plain}
    return functional_call(qformer, _folded(qformer, norm), args=(), kwargs=inputs).last_hidden_state


def _folded(qformer: nn.Module, norm: nn.LayerNorm) -> dict[str, Tensor]:
    """The weights ``[D, C]`` and biases ``[D]`` of all readers, by name, with the norm's scale and shift in them."""
    weights: dict[str, Tensor] = {}
    for name, layer in qformer.named_modules():
        if name.endswith(READERS):
            assert isinstance(layer, nn.Linear)
            weights[f"{name}.weight"] = layer.weight * norm.weight
            weights[f"{name}.bias"] = functional.linear(norm.bias, layer.weight, layer.bias)
    return weights

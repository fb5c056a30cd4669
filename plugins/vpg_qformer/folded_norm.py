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

from vpgtrans_core.errors import ModelError

READERS = ("attention.key", "attention.value")
"""The linear layers of a cross-attention that read the image."""


def ask_with_folded_norm(qformer: nn.Module, norm: nn.LayerNorm, queries: Tensor, features: Tensor) -> Tensor:
    """Let `queries` ``[B, Q, D]`` ask ``norm(features)``, features ``[B, N, C]``; returns ``[B, Q, D]``."""
    plain = functional.layer_norm(features.to(norm.weight.dtype), norm.normalized_shape, eps=norm.eps)
    inputs = {"query_embeds": queries, "encoder_hidden_states": plain}
    return functional_call(qformer, _folded(qformer, norm), args=(), kwargs=inputs).last_hidden_state


def _folded(qformer: nn.Module, norm: nn.LayerNorm) -> dict[str, Tensor]:
    """The weights ``[D, C]`` and biases ``[D]`` of all readers, by name, with the norm's scale and shift in them.

    Raises:
        ModelError: the modules have other names than these: the norm would be forgotten.
    """
    modules = dict(qformer.named_modules())
    crossings = [name for name in modules if name.endswith(".crossattention")]
    readers = [f"{name}.{reader}" for name in crossings for reader in READERS]
    if not readers or not all(isinstance(modules.get(name), nn.Linear) for name in readers):
        raise ModelError(
            f"{type(qformer).__name__} of this transformers names the keys and values of its cross-attention otherwise",
            "use a release of transformers that vpgt was tested with: see constraints.txt",
        )
    weights: dict[str, Tensor] = {}
    for name in readers:
        weight, bias = modules[name].weight, modules[name].bias
        weights[f"{name}.weight"] = weight * norm.weight
        weights[f"{name}.bias"] = functional.linear(norm.bias, weight, bias)
    return weights

"""VPGs whose projector is an MLP of transformers: its last layer is the projector, the layers before belong to the VPG.

transformers gives the MLP's hidden layer the language model's width. So a folder with a wider language model has units
there that nothing reads, and beside a narrower one there is room for fewer units than the source has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.weights import Weights, check_finite, check_shapes

HIDDEN = "projector_hidden_size"
"""The field of config.json that says how many units of the hidden layer are ours. transformers keeps it and ignores
it."""


def hidden_size(config: dict[str, Any], text_type: str) -> int:
    """The width of the MLP's hidden layer: as we wrote it, or the LLM's.

    Args:
        text_type: the ``model_type`` of an LLM that the config does not name.

    Raises:
        ModelError: the config does not say it.
    """
    from transformers import AutoConfig

    text = config.get("text_config") or {}
    size = config.get(HIDDEN) or text.get("hidden_size")
    if size is None and config.get("text_config") is not None:
        size = AutoConfig.for_model(**{"model_type": text_type, **text}).hidden_size  # files leave defaults out
    if not isinstance(size, int):
        raise ModelError(f"config.json says neither {HIDDEN} nor the language model's hidden_size")
    return size


def read_last_layer(folder: str | Path, prefix: str, text_type: str) -> tuple[Tensor, Tensor] | None:
    """The projector ``(weight [D_llm, D], bias [D_llm])`` in fp32, from the D units that are ours; None without one."""
    weights = Weights(folder)
    names = prefix + "weight", prefix + "bias"
    if not any(name in weights for name in names):
        return None
    weight, bias = (weights.read(name).float() for name in names)
    check_finite({names[0]: weight, names[1]: bias}, folder)
    weight = weight[:, : hidden_size(read_json(Path(folder) / "config.json"), text_type)].contiguous()
    check_shapes({names[0]: (bias.numel(), weight.shape[1])}, {names[0]: tuple(weight.shape)}, folder)
    return weight, bias


def with_units(layer: nn.Linear, units: Tensor) -> nn.Linear:
    """The layer with the outputs `units` ``[K]`` alone, frozen."""
    units = units.to(layer.weight.device)
    new = nn.Linear(layer.in_features, len(units), device=layer.weight.device, dtype=layer.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(layer.weight[units])
        new.bias.copy_(layer.bias[units])
    return new.requires_grad_(False)


def check_units(units: int, projector: nn.Linear, what: str) -> None:
    """Whether there is room for the hidden layer in transformers' class, called `what`.

    Raises:
        ModelError: there is not.
    """
    if units > projector.out_features:
        raise ModelError(
            f"the MLP's hidden layer has {units} units, and transformers' {what} has the LLM's width there, "
            f"{projector.out_features}",
            "save with --save vpg instead, or start the run anew with --save model",
        )


def filled(value: Tensor, rows: int) -> Tensor:
    """The tensor with `rows` rows of zeros behind it."""
    return torch.cat([value, value.new_zeros(rows, *value.shape[1:])]) if rows else value


def last_layer_tensors(projector: nn.Linear, prefix: str) -> dict[str, Tensor]:
    """The projector as the MLP's last layer, which reads as many units as the LLM is wide: zeros of those not ours."""
    missing = projector.out_features - projector.in_features
    weight = filled(projector.weight.detach().float().T, missing).T.contiguous()
    return {prefix + "weight": weight, prefix + "bias": projector.bias.detach().float()}

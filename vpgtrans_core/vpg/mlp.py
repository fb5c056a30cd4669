"""VPGs whose projector is an MLP of transformers: its last layer is the projector, the layers before belong to the VPG.

transformers gives the MLP's hidden layer the language model's width. So a folder with a wider language model has units
there that nothing reads, and beside a narrower one there is room for fewer units than the source has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.vpg.adapter import Preprocessing
from vpgtrans_core.vpg.bare import BareVPG
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


class MLPVPG(BareVPG):
    """A VPG with the first layer of a two-layer MLP; the second is the projector.

    Attributes:
        hidden_name: what the names of the first layer begin with.
    """

    hidden_name: ClassVar[str] = "multi_modal_projector.linear_1."

    def __init__(self, config: dict[str, Any], preprocessing: Preprocessing | None = None) -> None:
        super().__init__(config, preprocessing)
        self.output_size = hidden_size(config, self.text_type)

    def read_tensors(self, folder: Path, weights: Weights) -> dict[str, Tensor]:
        tensors = super().read_tensors(folder, weights)
        for name in tensors:
            if name.startswith(self.hidden_name):  # units beyond ours fill the folder up to the LLM's width
                tensors[name] = tensors[name][: self.output_size]
        return tensors

    @classmethod
    def load_projector(cls, folder: str | Path) -> tuple[Tensor, Tensor] | None:
        return read_last_layer(folder, cls.projector_name, cls.text_type)

    @classmethod
    def widest(cls, embedding_size: int) -> int:
        return embedding_size

    def keep_outputs(self, units: Tensor) -> None:
        name = self.hidden_name.removesuffix(".")
        self.set_submodule(name, with_units(cast(nn.Linear, self.get_submodule(name)), units))
        self.output_size = len(units)

    def check_room(self, projector: nn.Linear) -> None:
        check_units(self.output_size, projector, self.what)

    def config_values(self) -> dict[str, Any]:
        return {**super().config_values(), HIDDEN: self.output_size}

    def whole_values(self) -> dict[str, Any]:
        return {**super().whole_values(), "image_seq_length": self.num_prompts}

    def whole_tensors(self, projector: nn.Linear, dtype: torch.dtype) -> dict[str, Tensor]:
        """The same; the hidden layer is filled up to the LLM's width with units that nothing reads."""
        tensors = super().whole_tensors(projector, dtype)
        missing = projector.out_features - self.output_size
        hidden = {name: filled(t, missing) for name, t in tensors.items() if name.startswith(self.hidden_name)}
        return tensors | hidden | last_layer_tensors(projector, self.projector_name)

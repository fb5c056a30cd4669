"""LoRA in the LLM's attention: PEFT's adapters, put into the frozen LLM where a stage trains them.

The LLM stays outside of torch's module tree; only its adapters' matrices are in it. A run ends with them merged into
the LLM's weights, or writes them beside the VPG as PEFT's own adapter, which fits the LLM without vpgt, too.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.files import write_json
from vpgtrans_core.weights import Weights, check_finite, mismatch, read_json, save_tensors

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import LLM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""PEFT's names of an adapter's files."""
ALPHA = 2
"""An adapter's alpha over its rank: how much of what it computes is added (as in LLaVA)."""
PARTS = ("lora_A", "lora_B")
NAME = "default"
"""PEFT's name of the one adapter there is."""
PREFIX = "base_model.model."
"""What begins the names of tensors in PEFT's files."""


def require_peft() -> None:
    """Check that adapters can be trained, before anything is loaded for it.

    Raises:
        ConfigError: PEFT is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            ["LoRA needs PEFT, which is not installed"], 'pip install -e ".[lora]" in a clone of this repository'
        )


def attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that LoRA adapts, by name.

    Raises:
        ModelError: there are none.
    """
    layers = _attention_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no attention with linear layers, which LoRA would adapt",
            "leave LoRA out: VPG and projector are trained without it",
        )
    return layers


def _attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers directly inside attention modules; transformers calls the class of each ``...Attention``."""
    from transformers.pytorch_utils import Conv1D

    return {
        f"{name}.{child}": layer
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention")
        for child, layer in module.named_children()
        if isinstance(layer, (nn.Linear, Conv1D))
    }


def lora_parameters(model: nn.Module) -> int:
    """How many parameters adapters of rank 1 have; `model` may be on the meta device."""
    layers: list[Any] = list(_attention_layers(model).values())
    return sum(sum(layer.weight.shape) for layer in layers)


class Lora(nn.Module):
    """The adapters in an LLM, as a module that holds nothing but their parameters, in fp32.

    Args:
        llm: its model gets the adapters, in place. At first they add nothing.
        rank: of each adapter.
        seed: of their first values.
        layers: the layers that get one; default all linear ones of the attention.
    """

    def __init__(self, llm: LLM, rank: int, seed: int = 0, layers: list[str] | None = None) -> None:
        super().__init__()
        require_peft()
        from peft import LoraConfig, LoraModel

        self.rank = rank
        self.layers = layers or list(attention_layers(llm.model))
        config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules=list(self.layers), bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner = LoraModel(llm.model, config, NAME)
        self._tuner: tuple[Any, ...] = (tuner,)  # not as a child: the LLM is inside
        modules: dict[str, Any] = dict(llm.model.named_modules())
        for layer in self.layers:
            for part in PARTS:
                linear = getattr(modules[layer], part)[NAME]
                linear.weight.data = linear.weight.data.float()  # what is trained is fp32
                self.register_parameter(_place(layer, part), linear.weight)
        llm.freeze()

    def describe(self) -> dict[str, Any]:
        """For run.json."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return {"rank": self.rank, "alpha": ALPHA * self.rank, "layers": len(self.layers), "parameters": count}

    def merge(self) -> None:
        """Add the adapters to the LLM's weights and take them out of the LLM; this object is of no use after it."""
        self._tuner[0].merge_and_unload()

    def save(self, folder: Path, reference: dict[str, Any]) -> None:
        """Write the adapters into a new `folder` as PEFT does.

        `reference` says where the LLM is, see `ResolvedLLM.reference`.
        """
        tensors = {
            f"{PREFIX}{layer}.{part}.weight": self.get_parameter(_place(layer, part)).detach().cpu().contiguous()
            for layer in self.layers
            for part in PARTS
        }
        folder.mkdir()
        save_tensors(folder / WEIGHTS, tensors)
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": reference.get("id"),
            "revision": reference.get("revision"),
            "r": self.rank,
            "lora_alpha": ALPHA * self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": self.layers,
            "inference_mode": True,
        }
        write_json(folder / CONFIG, config)

    @torch.no_grad()
    def fill(self, folder: Path) -> None:
        """Read the values that `save` wrote.

        Raises:
            ModelError: names or shapes are other ones, or a value is not finite.
        """
        weights = Weights(folder / WEIGHTS)
        wanted = {f"{PREFIX}{layer}.{part}.weight": _place(layer, part) for layer in self.layers for part in PARTS}
        missing, unexpected = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
        shapes = {name: self.get_parameter(place).shape for name, place in wanted.items()}
        misshapen = [name for name in wanted if name in weights and weights.shape(name) != tuple(shapes[name])]
        if missing or unexpected or misshapen:
            raise ModelError(
                mismatch(str(folder / WEIGHTS), missing=missing, unexpected=unexpected, misshapen=misshapen),
                "the adapter belongs to another language model",
            )
        for name, place in wanted.items():
            value = weights.read(name)
            check_finite({name: value}, folder)
            self.get_parameter(place).copy_(value)


def apply_adapter(llm: LLM, folder: Path, *, merge: bool = True) -> None:
    """Put the adapter in `folder` into its LLM; merged into the weights, unless they are quantised.

    Raises:
        ModelError: it does not fit. ConfigError: PEFT is not installed.
    """
    config = read_json(folder / CONFIG)
    layers, rank, alpha = (config.get(name) for name in ("target_modules", "r", "lora_alpha"))
    known = set(attention_layers(llm.model))
    if not isinstance(rank, int) or alpha != ALPHA * rank or not isinstance(layers, list) or not known >= set(layers):
        raise ModelError(
            f"{folder / CONFIG} describes no adapter of the attention of {type(llm.model).__name__} as vpgt writes it",
            "load it with PEFT, or restore the folder",
        )
    lora = Lora(llm, rank, layers=layers)
    lora.fill(folder)
    if merge:
        lora.merge()
    lora.requires_grad_(False)


def _place(layer: str, part: str) -> str:
    """The name of a parameter in the module, where dots part modules."""
    return f"{layer.replace('.', '-')}-{part}"

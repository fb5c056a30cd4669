"""One frozen LLM over the memory of several devices: its blocks on the GPUs of this machine, the rest in host memory.

transformers and accelerate do the work. A device map says where each block is; hooks bring a block's inputs to it, and
the weights of a block in host memory to the first GPU while it computes. What stands before and after the blocks is on
the device of the soft prompts (`DecoderOnlyLLM.trunk`), and the loss is computed where the head is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.llm.blocks import blocks
from vpgtrans_core.recipes.holding import LEFT, SPILLS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HOST_SHARE = 0.9
"""The share of the host's free memory that weights may take."""

Room = dict[int | str, int]
"""Bytes that weights may take on each device: GPUs by number, and ``cpu``."""


@dataclass(frozen=True)
class Placement:
    """How an LLM is to be placed.

    Attributes:
        room: the devices, from the first on.
        spills: whether parts of it may stay in host memory.
    """

    room: Room
    spills: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` is told."""
        return {"device_map": "auto", "max_memory": dict(self.room)}

    def check_size(self, empty: PreTrainedModel, dtype: torch.dtype) -> None:
        """Refuse an LLM that is larger than the room, before it is loaded.

        Args:
            empty: the LLM without weights.
            dtype: the precision that they will have.

        Raises:
            ModelError: it is.
        """
        size = sum(p.numel() for p in empty.parameters()) * dtype.itemsize
        if size > sum(self.room.values()):
            raise self._too_large(size)

    def check_map(self, model: PreTrainedModel) -> None:
        """Refuse a model of which a part was left on disk.

        Raises:
            ModelError: it was.
        """
        if set(device_map(model).values()) - set(self.room):
            raise self._too_large(sum(p.numel() * p.element_size() for p in model.parameters()))

    def _too_large(self, size: float) -> ModelError:
        room = ", ".join(f"{_name(device)} {bytes_ / 1e9:.1f} GB" for device, bytes_ in self.room.items())
        more = "" if self.spills else "--place auto:cpu keeps in host memory what the GPUs cannot hold; "
        return ModelError(
            f"the LLM's weights take {size / 1e9:.1f} GB, and there is room for {room}",
            f"{more}--quantization 8bit or 4bit makes them smaller; `vpgt plan` shows what fits",
        )


def placement(place: str | None, device: torch.device, later: float = 0.0) -> Placement | None:
    """The placement that the setting ``place`` asks for; None where it asks for none.

    Args:
        device: of the VPG.
        later: bytes that training will take on that device before the first step.

    Raises:
        ConfigError: there is no GPU.
    """
    if place is None:
        return None
    spills = place == SPILLS
    return Placement(room(device, later, spills), spills)


def room(device: torch.device, later: float, spills: bool) -> Room:
    """Bytes that weights may take on each GPU that this process sees, and in host memory."""
    if device.type != "cuda":
        raise ConfigError(
            ["place: there is no GPU to place the LLM on"], "leave --place out: on a CPU there is one memory"
        )
    own = device.index or 0
    free = {number: torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())}
    made: Room = {n: max(0, int(size - LEFT - (later if n == own else 0))) for n, size in free.items()}
    return made | ({"cpu": int(HOST_SHARE * _host_memory())} if spills else {})


def _host_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def device_map(model: nn.Module) -> Mapping[str, int | str]:
    """Where the parts of a placed model are; empty for a model in one place."""
    return getattr(model, "hf_device_map", {})


def state_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's ``state_dict()``, in which weights are there wherever they are kept."""
    from transformers.integrations.accelerate import load_offloaded_parameter

    state = model.state_dict()
    return {name: load_offloaded_parameter(model, name) if t.is_meta else t for name, t in state.items()}


def is_offloaded(model: nn.Module) -> bool:
    """Whether some weights are on their device only while they are computed with."""
    return any(p.is_meta for p in model.parameters())


def shares(model: nn.Module) -> dict[torch.device, float]:
    """The share of the blocks that each device computes; empty for a model in one place."""
    if len(set(device_map(model).values())) < 2:
        return {}
    counts = Counter(device_of(block) for block in blocks(model))
    return {device: count / counts.total() for device, count in counts.items()}


def device_of(module: nn.Module) -> torch.device:
    """Where a part of a placed model computes."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        if (device := getattr(each, "execution_device", None)) is not None:
            return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return next(module.parameters()).device


def _name(device: int | str) -> str:
    return "the host" if device == "cpu" else f"GPU {device}" if isinstance(device, int) else str(device)

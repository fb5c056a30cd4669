"""A frozen LLM in shards: each process holds its part of every block, by torch's FSDP2.

A block is gathered before it computes, in the forward and in the backward pass, and freed afterwards; as it is frozen,
nothing is reduced. What stands outside of the blocks (word embeddings, last norm, head) every process holds whole: it
is small beside the blocks, and is used outside of the passes that FSDP watches.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from vpgtrans_core.errors import ModelError, VpgtError
from vpgtrans_core.llm.blocks import blocks
from vpgtrans_core.llm.empty import empty_model
from vpgtrans_core.llm.text import Text
from vpgtrans_core.processes.lockstep import Lockstep

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from vpgtrans_core.llm.adapter import LLM

T = TypeVar("T")
M_MMAP_THRESHOLD, LARGE = -3, 1 << 20
"""The number by which glibc calls the size from which memory is the system's own, and that size in bytes."""
MARK = "_shards"
"""The name under which a block has its `Shards`, wherever a family puts it."""


class Shards:
    """The shards of one LLM, and how the processes run it together.

    Args:
        lockstep: the processes.
    """

    def __init__(self, lockstep: Lockstep) -> None:
        self.lockstep = lockstep
        self._roots: list[FSDPModule] = []
        if lockstep.accelerator.device.type == "cpu":
            _give_freed_memory_back()

    @staticmethod
    def of(model: nn.Module) -> Shards | None:
        """The shards of a model that `reader` has read; None where it is whole."""
        found: Shards | None = next((vars(block)[MARK] for block in blocks(model) if MARK in vars(block)), None)
        return found

    def reader(self, config: PreTrainedConfig, trust_remote_code: bool = False) -> Any:
        """The class of a config's LLM, whose ``from_pretrained`` reads this process's part of each block.

        transformers reads a parameter that is a `DTensor` in shards; so the blocks become such while the model has no
        weights yet.

        Raises:
            ModelError: the LLM cannot be cut into shards.
        """
        if getattr(config, "quantization_config", None):
            raise ModelError("the LLM's weights are quantised, and packed numbers cannot be cut into shards", _WHOLE)
        plain: Any = type(empty_model(config, trust_remote_code=trust_remote_code))
        shards = self

        class Sharded(plain):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.__class__ = plain
                shards._cut(self)

        for name in ("__name__", "__qualname__", "__module__"):
            setattr(Sharded, name, getattr(plain, name))
        return Sharded

    def _cut(self, model: nn.Module) -> None:
        parts = blocks(model)
        if not parts:
            raise ModelError(f"{type(model).__name__} does not show its blocks, which would be sharded", _WHOLE)
        for block in parts:
            try:
                sharded = fully_shard(block, mesh=self.lockstep.mesh, reshard_after_forward=True)
            except (ValueError, NotImplementedError) as error:  # a parameter that is a single number, for instance
                raise ModelError(f"{type(model).__name__} cannot be sharded: {error}", _WHOLE) from error
            sharded.set_custom_all_gather(self.lockstep.gathers)  # type: ignore[arg-type]
            vars(block)[MARK] = self

    def watch(self, trunks: Sequence[nn.Module]) -> None:
        """Let FSDP see passes through these parts of the model as a whole, so that it gathers the next block while one
        computes.

        On the way back the next one is named. By itself FSDP takes the one that ran before, which after passes without
        gradients may be any: then passes would not be alike."""
        for trunk in trunks:
            parts: list[Any] = [module for module in trunk.modules() if MARK in vars(module)]
            for before, part in zip([*parts[:1], *parts], parts, strict=False):
                part.set_modules_to_backward_prefetch([before])
            others = {parameter for parameter in trunk.parameters() if not isinstance(parameter, DTensor)}
            self._roots.append(fully_shard(trunk, mesh=self.lockstep.mesh, ignored_params=others))

    def run(self, llm: LLM, parts: Sequence[T], work: Callable[[T], None], *, gradients: bool) -> None:
        """Do `work`, one pass through the LLM, on each of this process's parts; see `Lockstep.run`."""
        self.lockstep.run(parts, work, lambda: _pass_over_nothing(llm, gradients), self._recover, gradients)

    def _recover(self) -> None:
        """Free what a failed pass has gathered."""
        for root in self._roots:
            if not hasattr(root, "reset_iter_state"):
                raise VpgtError(
                    f"out of memory, and torch {torch.__version__} cannot go on after that with an LLM in shards",
                    "continue with --resume and a smaller --micro-positions, or with torch 2.13",
                )
            root.reset_iter_state()
        if self.lockstep.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()


_WHOLE = "leave --shard out: every process then holds the whole LLM"


def _give_freed_memory_back() -> None:
    """Let glibc return each large tensor's memory to the system when it is freed, as it does at first.

    It soon learns to keep up to 32 MiB of each, and gathered blocks then lie scattered over several times the size."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def sum_by_blocks(model: nn.Module) -> None:
    """Let a whole model sum the gradients of what several of its blocks read (in a decoder, the encoder's states) in
    the order in which one in shards does: first within each block, which FSDP parts from the others. AdamW makes much
    of the last digit of small gradients."""
    for block in blocks(model):
        block.register_forward_pre_hook(_parted, with_kwargs=True)


def _parted(block: nn.Module, given: Any, named: Any) -> Any:
    return tree_map(lambda v: v.view_as(v) if isinstance(v, Tensor) and v.requires_grad else v, (given, named))


def own_part(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _pass_over_nothing(llm: LLM, gradients: bool) -> None:
    """Run the LLM on the shortest text, whose loss counts for nothing."""
    end = llm.text.answer_end
    rows = llm.layout([[Text.of((end,), (end,))]], 1)
    device = llm.model.device
    with torch.set_grad_enabled(gradients):
        prompts = torch.zeros(1, 1, llm.embedding_size, dtype=llm.model.dtype, device=device, requires_grad=gradients)
        loss = llm.loss(prompts, rows.to(device))
    if gradients:
        loss.backward()

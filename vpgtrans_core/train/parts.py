"""What a stage trains and how its steps are computed, as far as `StageRunner` knows them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vpgtrans_core.train.step import StepResult


class Trainable(Protocol):
    """A model of which a stage trains parts: a `VLModel`, or a VPG that is pre-trained.

    Attributes:
        chance: the loss of equal probabilities, with which an LLM is of no use; None where there is no LLM.
    """

    @property
    def chance(self) -> float | None: ...
    @property
    def device(self) -> torch.device: ...
    def train_only(self, names: Collection[str]) -> None: ...
    def parameters_of(self, names: Collection[str]) -> dict[str, nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def eval(self) -> Any: ...


class Computes(Protocol):
    """Losses and gradients of a stage's batches, which only it looks into: a `Stepper`, or that of a pre-training."""

    accelerator: Accelerator
    half: torch.dtype | None
    micro_positions: int

    @property
    def parameters(self) -> list[nn.Parameter]: ...
    def backward(self, batch: Any, signal: int, scale: Callable[[Tensor], Tensor]) -> StepResult: ...
    def loss_sum(self, batch: Any) -> tuple[float, int]: ...
    def even(self, batches: Iterable[Any]) -> Iterable[Any]: ...
    def largest(self, signal: int) -> int: ...

"""A model's head without its trunk, by the model's own code.

The loss needs logits at labels only (see `vpgtrans_core.llm.loss`), so hidden states are computed once and the head is
called with some of them at a time. But what a model does between its trunk and its logits is not always one linear
layer: Gemma 2 caps the logits, Granite and Cohere scale them, T5 scales the states, Falcon-H1 multiplies by a factor
that its trunk holds. That code stands in each model's `forward`, and copying it here for every family would be wrong
for the next one. So that very `forward` is run, on a shallow copy of the model (same parameters, same config, no
memory) in which the trunk is replaced by a module that returns the hidden states it is given. The original model is not
touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from vpgtrans_core.llm.loss import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def head_of(model: PreTrainedModel, trunk_name: str, run: Callable[[nn.Module, Tensor], Tensor]) -> Head:
    """Make the head of a model: hidden states ``[N, D]`` to logits ``[N, V]``.

    Args:
        model: the whole model.
        trunk_name: its child whose output the head reads.
        run: calls the copy without trunk with states ``[1, N, D]`` and gives its logits ``[1, N, V]``.
    """
    shell = copy.copy(model)
    shell.__dict__.pop("forward", None)  # a hook's wrapper is bound to the whole model
    shell.__dict__["_modules"] = dict(model._modules)
    shell._modules[trunk_name] = _PassThrough(getattr(model, trunk_name))

    def head(hidden: Tensor) -> Tensor:
        return run(shell, hidden[None]).squeeze(0)

    return head


def read_in_order(head: nn.Module) -> None:
    """Let a frozen head copy what it reads where that does not lie in memory in order, as the last positions of some
    rows do not. torch would multiply each row by itself, on a CPU with a copy of the weights each."""
    head.register_forward_pre_hook(_in_order)


def _in_order(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.contiguous() if isinstance(part, Tensor) else part for part in arguments)


class _Hidden(tuple):
    """A base model's output that holds hidden states alone: every other field is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[0] if name == "last_hidden_state" else None


class _PassThrough(nn.Module):
    """Stands for a trunk and returns the states that it is given; other things that the head asks it are the trunk's
    (Falcon-H1's factor before the head)."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.__dict__["trunk"] = trunk  # not as a child: whoever walks over the shell shall not meet it

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["trunk"], name)

    @property
    def decoder(self) -> _PassThrough:
        """Some classes call their base model's decoder, not the base model."""
        return self

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> _Hidden:
        return _Hidden((inputs_embeds,))

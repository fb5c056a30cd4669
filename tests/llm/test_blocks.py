"""What of a model is compiled."""

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm import blocks
from vpgtrans_core.llm.blocks import checkpoint_blocks, compile_blocks, why_not_compile
from vpgtrans_core.llm.shards import sum_by_blocks


class Block(GradientCheckpointingLayer):
    def forward(self, x):
        return x + 1


def compiled(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if module._compiled_call_impl is not None]


def test_blocks_are_compiled_one_by_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Block(), Block())
    compile_blocks(model, [model])
    assert compiled(model) == ["1", "2"]


def test_of_a_model_without_marked_blocks_what_training_calls_is_compiled() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    compile_blocks(model, [model[0]])
    assert compiled(model) == ["0"]
    assert torch._dynamo.config.recompile_limit >= blocks.KINDS


def test_a_compiler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_compile(torch.device("meta")) is None

    def broken(*given: object, **more: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    assert why_not_compile(torch.device("cpu")) == "no C++ compiler"


def test_recomputing_activations_is_refused_where_no_blocks_are_found() -> None:
    with pytest.raises(ModelError, match="the blocks of Sequential cannot be found") as told:
        checkpoint_blocks(nn.Sequential(nn.Linear(2, 2)))
    assert "GradientCheckpointingLayer" in str(told.value.hint)


class Reader(GradientCheckpointingLayer):
    """A block that reads the encoder's states twice, as cross-attention does for keys and values."""

    def __init__(self, one: float, other: float) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x, states):
        return x + states * self.one + states * self.other


def test_gradients_are_summed_within_each_block_first() -> None:
    """As FSDP sums them; the two orders differ where rounding does."""
    found = []
    for ordered in (False, True):
        model = nn.Sequential(Reader(1e8, -1e8), Reader(1.0, 1.0))
        if ordered:
            sum_by_blocks(model)
        states, x = torch.ones(1, requires_grad=True), torch.zeros(1)
        for block in model:
            x = block(x, states)
        x.backward()
        assert states.grad is not None
        found.append(float(states.grad))
    assert found == [0.0, 2.0]

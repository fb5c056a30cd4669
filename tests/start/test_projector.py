"""The projector's weights."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vpgtrans_core.start.converter import WordConverter
from vpgtrans_core.start.projector import merge, random_projector, soft_prompts, spread


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 100), st.integers(0, 999))
def test_merged_is_converter_after_projector(d: int, d_s: int, d_t: int, scale: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weight, bias = scale * torch.randn(d_s, d, generator=g), torch.randn(d_s, generator=g)
    converter = WordConverter(torch.randn(d_t, d_s, generator=g), torch.randn(d_t, generator=g))
    x = torch.randn(7, d, generator=g)
    merged = soft_prompts(x.double(), *(t.double() for t in merge(converter, weight, bias)))
    apart = (x.double() @ weight.double().T + bias.double()) @ converter.weight.double().T + converter.bias.double()
    assert float((merged - apart).norm() / apart.norm()) < 1e-6


def test_random_start_is_that_of_nn_linear() -> None:
    torch.manual_seed(5)
    layer = nn.Linear(12, 20)
    weight, bias = random_projector(12, 20, seed=5)
    assert torch.equal(weight, layer.weight)
    assert torch.equal(bias, layer.bias)
    assert not torch.equal(random_projector(12, 20, seed=6)[0], weight)


def test_random_start_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random_projector(4, 4, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_spread_moves_soft_prompts_away_from_their_mean_and_leaves_that() -> None:
    projector = random_projector(12, 20, seed=0)
    outputs = torch.randn(5, 8, 12) + 3
    near = soft_prompts(outputs, *projector)
    far = soft_prompts(outputs, *spread(projector, outputs.mean((0, 1)), 3.5))
    mean = near.mean((0, 1))
    torch.testing.assert_close(far, mean + 3.5 * (near - mean), rtol=1e-4, atol=1e-5)

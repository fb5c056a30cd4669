"""How a batch is cut into micro-batches."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from vpgtrans_core import machine
from vpgtrans_core.machine import Machine
from vpgtrans_core.train.step import _cuts

SIZES = st.lists(st.integers(1, 90), max_size=30)


def sums(sizes: list[int], budget: int) -> list[int]:
    ends = _cuts(sizes, budget)
    return [sum(sizes[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(1, 300))
def test_parts_stay_within_the_budget_and_are_few_and_even(sizes: list[int], budget: int) -> None:
    parts = sums(sizes, budget)
    assert sum(parts) == sum(sizes)
    assert all(part <= max(budget, *sizes) for part in parts)
    if parts:
        assert len(sums(sizes, max(parts) - 1)) > len(parts) or max(parts) == max(sizes), "a smaller budget would do"
    assert len(parts) == fewest(sizes, budget)


def fewest(sizes: list[int], budget: int) -> int:
    parts, room = 0, 0  # filling each part as far as it goes is the best for what is in order
    for size in sizes:
        if size > room:
            parts, room = parts + 1, budget
        room -= size
    return parts


def test_equal_images_make_equal_parts() -> None:
    assert sums([91] * 8, 500) == [4 * 91, 4 * 91]
    assert sums([10] * 3, 10**9) == [30]
    assert sums([], 5) == []


@pytest.mark.parametrize(("layers", "width", "positions"), [(3, 128, 8192), (12, 768, 762), (32, 4096, 256)])
def test_a_cpu_computes_as_many_positions_at_once_as_its_products_need(layers: int, width: int, positions: int) -> None:
    cpu = Machine(Accelerator(cpu=True), torch.device("cpu"), torch.float32, None)
    assert cpu.positions_at_once(layers, width) == positions
    assert machine.FEWEST_POSITIONS <= positions <= machine.CPU_MOST_POSITIONS

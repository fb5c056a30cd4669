"""The order of images: a pure function of seed and step that leaves nothing out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpgtrans_core.data.order import BLOCK, InOrder, Order, split


def rows(*sizes: int) -> list[np.ndarray]:
    return [np.arange(size) * 3 for size in sizes]


@given(size=st.integers(1, 50), step=st.integers(1, 20), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_epoch_holds_every_image_once(size: int, step: int, seed: int) -> None:
    order = Order(seed, rows(size), None, step)
    draws = [draw for number in range(-(-3 * size // step)) for draw in order.step(number)][: 3 * size]
    assert Counter((draw.row, draw.visit) for draw in draws) == Counter(
        (r * 3, v) for r in range(size) for v in range(3)
    )


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    one, other = (Order(7, rows(300, 40), (0.2, 0.8), 16) for _ in range(2))
    forwards = [one.step(number) for number in range(50)]
    backwards = [other.step(number) for number in reversed(range(50))][::-1]
    assert forwards == backwards
    assert forwards != [Order(8, rows(300, 40), (0.2, 0.8), 16).step(n) for n in range(50)]
    assert forwards != [Order(7, rows(300, 40), (0.2, 0.8), 16, stream=2).step(n) for n in range(50)]
    assert [d.row for d in forwards[0]] != sorted(d.row for d in forwards[0])


@given(ratios=st.lists(st.floats(0.01, 10), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_ratios_hold_and_every_source_is_gone_through_evenly(ratios: list[float]) -> None:
    order = Order(0, rows(*[50] * len(ratios)), ratios, 100)
    draws = [draw for number in range(2 * BLOCK // 100) for draw in order.step(number)]
    for source, ratio in enumerate(ratios):
        mine = [draw for draw in draws if draw.source == source]
        assert len(mine) / len(draws) == pytest.approx(ratio / sum(ratios), abs=2e-4)
        visits = Counter(draw.row for draw in mine)
        assert max(visits.values()) - min(visits.get(int(r), 0) for r in order.rows[source]) <= 1
        assert [draw.visit for draw in mine] == sorted(draw.visit for draw in mine)


def test_without_ratios_every_image_comes_equally_often() -> None:
    order = Order(0, rows(900, 100), None, 50)
    share = np.mean([draw.source for number in range(200) for draw in order.step(number)])
    assert share == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_processes_share_a_step_without_gap_or_overlap(world: int) -> None:
    whole = Order(0, rows(100), None, 13).step(4)
    parts = [whole[rank::world] for rank in range(world)]
    assert sorted(draw for part in parts for draw in part) == sorted(whole)


def test_steps_of_epochs() -> None:
    order = Order(0, rows(100), None, 16)
    assert [order.steps(e) for e in (0, 0.01, 1, 2, 2.5)] == [0, 1, 6, 12, 15]


def test_in_order_gives_each_image_once() -> None:
    order = InOrder(rows(5, 3), 3)
    draws = [draw for number in range(len(order)) for draw in order.step(number)]
    assert [(d.source, d.row, d.visit) for d in draws] == [(0, i * 3, 0) for i in range(5)] + [
        (1, i * 3, 0) for i in range(3)
    ]
    assert len(InOrder(rows(0), 3)) == 0


def test_held_out_images_are_not_trained_on_and_limits_are_nested() -> None:
    train, held_out = split(100, 20)
    assert not set(train) & set(held_out) and len(train) == 80 and len(held_out) == 20
    small, same = split(100, 20, limit=10)
    assert set(small) <= set(split(100, 20, limit=30)[0]) <= set(train)
    assert np.array_equal(same, held_out)


def test_the_work_of_a_step_does_not_grow_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step far into a run of millions of images makes the permutations and blocks that it reads, no others."""
    made: list[tuple[str, int]] = []
    permutation, block = Order._make_permutation, Order._make_block

    def counted_permutation(self: Order, source: int, visit: int) -> np.ndarray:
        made.append(("permutation", len(self.rows[source])))
        return permutation(self, source, visit)

    def counted_block(self: Order, number: int) -> tuple[np.ndarray, np.ndarray]:
        made.append(("block", BLOCK))
        return block(self, number)

    monkeypatch.setattr(Order, "_make_permutation", counted_permutation)
    monkeypatch.setattr(Order, "_make_block", counted_block)
    sizes = (1_000_000, 2_000_000)
    order = Order(0, rows(*sizes), (0.5, 0.5), 512)
    assert made == []
    order.step(4_000_000)
    places = len({position // BLOCK for position in (512 * 4_000_000, 512 * 4_000_001 - 1)})
    assert sum(what == "block" for what, _ in made) == places
    assert sorted(size for what, size in made if what == "permutation") == sorted(sizes)
    before = len(made)
    order.step(4_000_000)
    assert len(made) == before

"""Packing, trees and rows."""

from __future__ import annotations

import pytest
import torch
from conftest import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from vpgtrans_core.llm.elements import line_of
from vpgtrans_core.llm.loss import NO_LABEL
from vpgtrans_core.llm.packing import balance, pack_cheaply
from vpgtrans_core.llm.rows import Tree, decoder_rows
from vpgtrans_core.llm.shown import Elements
from vpgtrans_core.llm.text import Text

texts = st.builds(
    Text.of,
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.lists(st.integers(1, 3), min_size=1, max_size=5).map(tuple),
)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30), st.integers(1, 12))
def test_balancing_loses_nothing_and_leaves_rows_nearly_even(sizes, count):
    rows = balance(sizes, count)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert len(rows) == min(count, len(sizes))
    for d in (0, 1) if rows else ():
        mean = sum(size[d] for size in sizes) / len(rows)
        assert max(sum(sizes[i][d] for i in row) for row in rows) <= 2 * mean + 9


def test_the_longest_sequence_stands_alone():
    assert sorted(map(len, balance([(50,), (3,), (4,)], 2))) == [1, 2]


def test_packing_wastes_little():
    lengths = torch.randint(40, 110, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = pack_cheaply(lengths, width=4096)
    longest = max(sum(lengths[i] for i in row) for row in rows)
    assert sum(lengths) / (longest * len(rows)) > 0.95
    assert longest <= 512


def test_narrow_models_get_short_rows():
    lengths = [60] * 64
    narrow, wide = pack_cheaply(lengths, width=32), pack_cheaply(lengths, width=4096)
    assert len(narrow) == 64 and len(wide) <= 64


def test_a_tree_merges_common_beginnings():
    texts = [Text.of((), (7, 8, 9)), Text.of((), (7, 8, 5, 9)), Text.of((), (7, 6, 9))]
    (tree,) = Tree.grow(line_of(text.pieces, [3], Elements(2)) for text in texts)
    assert tree.elements == [-7, -8, 7, 6, 8, 5]
    assert tree.depths == [0, 1, 2, 3, 3, 4]
    assert tree.ends == [6, 6, 6, 4, 6, 6]
    assert {place: sorted(labels) for place, labels in tree.labels.items()} == {
        1: [7, 7, 7], 2: [6, 8, 8], 3: [9], 4: [5, 9], 5: [9]
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(texts, max_size=4), max_size=4), st.booleans(), st.integers(1, 3))
def test_every_label_sees_its_own_text_and_nothing_else(groups, share, prompts):
    """The ancestors of each label's predictor spell the text before it, in either layout."""
    rows = decoder_rows(groups, prompts, width=8, share=share)
    flat_ids, length = rows.ids.flatten().tolist(), rows.ids.shape[-1]
    image_at = dict(zip(rows.prompt_slots.tolist(), rows.prompt_sources.tolist(), strict=True))
    if not share and len(rows.ids):
        mask = torch.ones(length, length).tril().bool()[None] & rows.attention.bool()[:, None, :]
    elif len(rows.ids):
        mask = rows.mask()[:, 0]
    seen = []
    assert len(set(rows.predictors.tolist())) == len(rows.predictors)
    labelled = zip(rows.predictors.tolist(), rows.targets.tolist(), strict=True)
    for position, target in [(p, t) for p, labels in labelled for t in labels if t != NO_LABEL]:
        row, place = divmod(position, length)
        ancestors = [row * length + j for j in torch.nonzero(mask[row, place]).flatten().tolist()]
        images = {image_at[a] // prompts for a in ancestors if a in image_at}
        assert [image_at[a] % prompts for a in ancestors[:prompts]] == list(range(prompts)) and len(images) == 1
        assert share is False or rows.depths.flatten()[ancestors].tolist() == list(range(len(ancestors)))
        seen.append((images.pop(), tuple(flat_ids[a] for a in ancestors[prompts:]), target))
    expected = [
        (image, (text.context + text.target)[: len(text.context) + k], text.target[k])
        for image, group in enumerate(groups)
        for text in group
        for k in range(len(text.target))
    ]
    assert sorted(seen) == sorted(expected)
    assert rows.labels == len(expected)


def test_no_position_attends_to_nothing():
    rows = decoder_rows(TEXTS, 4, width=8, share=True)
    assert rows.mask().any(-1).all()


def test_rows_move_and_pin():
    rows = decoder_rows(TEXTS, 4, width=8, share=True)
    moved = rows.to("meta")
    assert moved.ids.device.type == "meta" and moved.attention is None and moved.labels == rows.labels
    if torch.cuda.is_available():
        assert rows.pin_memory().ids.is_pinned()


@pytest.mark.parametrize("share", [True, False])
def test_no_texts_make_no_rows(share):
    rows = decoder_rows([[], []], 4, width=8, share=share)
    assert rows.labels == rows.positions == 0

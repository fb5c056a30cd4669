"""Images that have different numbers of soft prompts, and words between them.

Each soft prompt of them is also an image of its own, one soft prompt large, with the words as words of the text. That
way is compared with transformers' own in test_pieces.py.
"""

from __future__ import annotations

import pytest
import torch
from pieces_parity import CASES, FAMILIES

from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.elements import images_of_samples, lengths_of
from vpgtrans_core.llm.packing import pack_cheaply
from vpgtrans_core.llm.shown import SoftPrompts, flat, positions_of, prompts_of, repeated, together
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens

SHOWN = [(1,), (2, (50, 51), 1), ((52,), 3), (1, (53,), 2, (53,), 2), (4, (50,)), (1,), ((54, 55), 1, (56,))]
"""What stands in the places of some images: numbers of soft prompts, and ids of words."""


def apart(texts, counts, shown):
    """The same texts with an image for each soft prompt, and how many there are of each sample."""
    every, numbers = [], []
    for sample, images in zip(texts, images_of_samples(len(texts), counts), strict=True):
        firsts, total = {}, 0
        for index, image in enumerate(images):
            firsts[index], total = total, total + prompts_of(shown[image])
        numbers.append(total)
        every.append([Text(tuple(_apart(text, images, firsts, shown))) for text in sample])
    return every, numbers


def _apart(text, images, firsts, shown):
    for piece in text.pieces:
        if not isinstance(piece, ImagePlace):
            yield piece
            continue
        place = firsts[piece.index]
        for run in shown[images[piece.index]]:
            if isinstance(run, int):
                yield from (ImagePlace(place + n) for n in range(run))
                place += run
            else:
                yield Tokens(run)


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_each_soft_prompt_stands_where_it_stands_as_an_image_of_its_own(one):
    llm, _ = one.make()
    for share in {llm.shares_prefix, False}:
        llm.shares_prefix = share
        for case in CASES:
            shown = SHOWN[: sum(case.images)]
            texts, counts = apart(case.texts, case.images, shown)
            torch.manual_seed(0)
            values = torch.randn(sum(map(prompts_of, shown)), llm.embedding_size, dtype=llm.model.dtype) * 0.3
            values.requires_grad_()
            rows = llm.layout(case.texts, shown, case.images)
            wanted = llm.layout(texts, 1, counts)
            assert (rows.labels, rows.positions) == (wanted.labels, wanted.positions)
            losses = llm.loss(SoftPrompts(values, tuple(shown)), rows), llm.loss(values[:, None], wanted)
            gradients = [torch.autograd.grad(loss, values)[0] for loss in losses]
            assert torch.equal(losses[0], losses[1]) and torch.equal(*gradients), (case.name, share)


@torch.no_grad()
def test_what_is_generated_does_not_depend_on_the_other_images():
    llm, _ = next(one for one in FAMILIES if one.name == "OPT, fp64").make()
    values = torch.randn(sum(map(prompts_of, SHOWN)), llm.embedding_size, dtype=torch.float64)
    prompts = SoftPrompts(values, tuple(SHOWN))
    options = GenerateOptions(num_beams=1, max_new_tokens=5, min_new_tokens=5)
    said = llm.generate(prompts, "", options)
    assert said == [text for n in range(len(SHOWN)) for text in llm.generate(prompts[n], "", options)]
    draws = torch.rand(2 * len(SHOWN), 5, dtype=torch.float64)
    sampled = llm.sample(repeated(prompts, 2), draws, 1.0)
    for n in range(len(SHOWN)):
        assert sampled[2 * n : 2 * n + 2] == llm.sample(together([prompts[n]] * 2), draws[2 * n : 2 * n + 2], 1.0)


def test_positions_are_counted_before_rows_are_made():
    case = next(case for case in CASES if case.name == "mixed")
    shown = SHOWN[: sum(case.images)]
    texts, counts = apart(case.texts, case.images, shown)
    assert list(lengths_of(case.texts, shown, case.images)) == list(lengths_of(texts, 1, counts))
    assert positions_of(SHOWN) == [1, 5, 4, 7, 5, 1, 4]


def test_soft_prompts_are_cut_and_joined_without_loss():
    values = torch.randn(sum(map(prompts_of, SHOWN)), 3)
    prompts = SoftPrompts(values, tuple(SHOWN))
    again = together([prompts[n] for n in range(len(prompts))])
    assert torch.equal(flat(again), values) and again.images == prompts.images
    assert flat(torch.zeros(2, 3, 4)).shape == (6, 4)


def test_long_sequences_of_uneven_lengths_leave_little_padding():
    """A row for each would pad all of them to the longest."""
    lengths = [2900, 700, 750, 640, 800, 1300, 1500, 1200, 600, 2800]
    rows = pack_cheaply(lengths, 4096)
    longest = max(sum(lengths[n] for n in row) for row in rows)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    assert longest * len(rows) < 1.2 * sum(lengths) < 0.6 * max(lengths) * len(lengths)

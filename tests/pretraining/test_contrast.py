"""The contrast's loss and measures in closed form, and the vocabulary that is made of captions."""

from __future__ import annotations

import pickle
import random

import pytest
import torch

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.pretraining.contrast import alike, contrast_loss, recalls
from vpgtrans_core.pretraining.words import Words, rows
from vpgtrans_core.vpg.pretraining import END, PAD, SPECIAL

CAPTIONS = ["A red circle.", "a blue square", "a red square"] * 20


def test_the_loss_is_that_of_clip_where_all_texts_differ() -> None:
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    right = torch.arange(5)
    expected = (
        torch.nn.functional.cross_entropy(logits, right) + torch.nn.functional.cross_entropy(logits.T, right)
    ) / 2
    torch.testing.assert_close(contrast_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_an_image_with_the_same_caption_is_no_wrong_answer() -> None:
    ids = torch.tensor([[4, 5], [6, 7], [4, 5]])
    same = alike(ids)
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    sure = torch.where(same, 50.0, 0.0)  # both images of the text are equally near to it
    expected = (2 * torch.tensor(2.0).log() + 0) / 3
    torch.testing.assert_close(contrast_loss(sure, same), expected)
    found = recalls(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), same)
    assert found["text_recall_at_1"] == found["image_recall_at_1"] == 1


def test_recall_counts_what_is_among_the_first() -> None:
    logits = torch.eye(8)
    logits[0, 1:4] = 2  # the right text of the first image is its fourth
    logits[1, 2:8] = 2  # that of the second its seventh
    found = recalls(logits, torch.eye(8, dtype=torch.bool))
    assert found["text_recall_at_1"] == 6 / 8 and found["text_recall_at_5"] == 7 / 8


def test_the_same_captions_give_the_same_vocabulary_and_no_text_is_unknown() -> None:
    one, other = Words.of(CAPTIONS, 280), Words.of(iter(CAPTIONS), 280)
    assert one.fingerprint() == other.fingerprint() and len(one) <= 280
    assert one.fingerprint() != Words.of([*CAPTIONS, "a green hat"] * 3, 280).fingerprint()
    ids = one.encode(Caption("A RED Circle ☃"), 30, random.Random(0))
    assert ids[-1] == END and not set(ids[:-1]) & set(range(len(SPECIAL)))
    assert ids[:2] == one.encode(Caption("a red hat"), 30, random.Random(0))[:2]
    assert len(one.encode(Caption("a red circle " * 9), 5, random.Random(0))) == 6
    assert pickle.loads(pickle.dumps(one)).fingerprint() == one.fingerprint()
    with pytest.raises(BadSampleError):
        one.encode(Caption(""), 5, random.Random(0))


def test_rows_are_filled_up() -> None:
    assert rows([[5, END], [6, 7, END]]).tolist() == [[5, END, PAD], [6, 7, END]]

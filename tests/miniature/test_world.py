"""The pictured world: what is drawn, said, asked and read back."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from vpgtrans_core.miniature import data, language
from vpgtrans_core.miniature.world import NOUNS, Scene, Thing, draw, held_out, sample
from zoo.score import read, score, truth

BALL = Thing("red", "ball", "small", 1, 0)
CUP = Thing("blue", "cup", "large", 1, 2)
PAIR = Scene((BALL, CUP), "grass")


def test_drawing_is_deterministic():
    first, again = draw(PAIR, random.Random(3)), draw(PAIR, random.Random(3))
    assert first.size == (48, 48)
    assert np.array_equal(np.asarray(first), np.asarray(again))


def test_every_noun_looks_different():
    pictures = {draw(Scene((Thing("red", noun, "large", 1, 1),), "snow"), random.Random(0)).tobytes() for noun in NOUNS}
    assert len(pictures) == len(NOUNS)


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_combinations_are_never_shown(split: data.Split):
    assert not any(held_out(t.colour, t.noun) for item in data.items(split, 200) for t in item.scene.things)


def test_each_held_out_picture_shows_a_held_out_combination():
    assert all(any(held_out(t.colour, t.noun) for t in item.scene.things) for item in data.items("held", 50))


def test_more_items_leave_the_first_as_they_are():
    few, many = data.items("train", 3), data.items("train", 6)
    assert [item.captions for item in few] == [item.captions for item in many[:3]]
    assert few[2].image.tobytes() == many[2].image.tobytes()


def test_saved_items_are_a_folder_of_captioned_pictures(tmp_path):
    data.save(data.items("val", 2), tmp_path)
    assert len(list((tmp_path / "images").glob("*.png"))) == 2
    assert (tmp_path / "captions.json").is_file()


def test_captions_tell_the_whole_scene_and_nothing_else():
    rng = random.Random(1)
    for _ in range(300):
        scene = sample(rng)
        for caption in language.captions(scene, rng):
            assert read(caption) == truth(scene), caption


@pytest.mark.parametrize(
    "caption",
    [
        "a small red ball to the left of a large blue cup on the grass",
        "in a meadow a giant navy mug on the right side of one tiny crimson orb",
        "a huge cobalt beaker with a little scarlet globe to its left on a lawn",
    ],
)
def test_paraphrases_score_alike(caption: str):
    result = score([caption], [PAIR])
    assert (result.exact, result.f1) == (1.0, 1.0)


def test_a_wrong_colour_costs_precision_and_recall():
    result = score(["a small green ball to the left of a large blue cup on the grass"], [PAIR])
    assert result.exact == 0.0
    assert result.parts["colour"] == 0.5
    assert result.parts["noun"] == result.parts["relation"] == 1.0
    assert result.precision == result.recall == 7 / 8


def test_a_short_caption_costs_recall_only():
    result = score(["a red ball"], [Scene((BALL,), "grass")])
    assert result.precision == pytest.approx(2 / 3)  # "in the middle" of everything is where a ball without a place is
    assert result.recall == pytest.approx(2 / 5)


def test_mixed_up_colours_are_not_right():
    swapped = Scene((dataclasses.replace(BALL, colour="blue"), dataclasses.replace(CUP, colour="red")), "grass")
    caption = "a small red ball to the left of a large blue cup on the grass"
    assert score([caption], [swapped]).parts["colour"] == 0.0


def test_questions_have_one_answer_of_every_kind():
    kinds = {question.kind for seed in range(20) for question in language.questions(PAIR, random.Random(seed))}
    assert kinds == set(language.QUESTION_KINDS)
    asked = {q.kind: q for q in language.questions(PAIR, random.Random(0))}
    assert asked["steps"].answer.text in ("red", "blue")
    assert asked["count"].answer.text == "two"

"""The one rule for texts that say the same again and again."""

import random

import pytest

from vpgtrans_core.miniature.language import captions
from vpgtrans_core.miniature.world import sample
from vpgtrans_core.sight.repetition import LONGEST_PERIOD, repeats


@pytest.mark.parametrize("period", range(1, LONGEST_PERIOD + 1))
def test_a_loop_is_seen_wherever_it_stands(period: int) -> None:
    words = [f"w{n}" for n in range(period)]
    times = 3 if period < 3 else 2
    assert repeats(" ".join(["before", *words * times, "after"]))
    assert not repeats(" ".join(["before", *words * (times - 1), "after"]))


@pytest.mark.parametrize(
    "text",
    [
        "ground, ground, Ground",
        "redredredred",
        "a large orange top top top on the floor",
        "a small red and white ball is a small red and white ball",
        "a bright and colorful scene of a bright and colorful scene",
    ],
)
def test_loops(text: str) -> None:
    assert repeats(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog, a dog and a cat",
        "so so many birds",
        "a red ball on the left and a red ball on the right",
        "two dogs in front of two dogs' houses",
        "a bowl of soup next to a bowl of rice on a table",
    ],
)
def test_captions_that_name_a_thing_twice_are_no_loops(text: str) -> None:
    assert not repeats(text)


def test_no_caption_of_the_miniature_is_a_loop() -> None:
    rng = random.Random(0)
    said = [caption for _ in range(400) for caption in captions(sample(rng), rng)]
    assert len(said) > 1000
    assert [caption for caption in said if repeats(caption)] == []

"""Which of a source's captions are kept."""

import pytest

from vpgtrans_core.data.captions import clean, keep
from vpgtrans_core.teaching.rule import RULE, sift

GOOD = (
    "A large blue ball on the left of a large blue tree.",
    "a dog, a dog and a cat",
    "so so many birds",
    "dog",
    "a red ball on the left and a red ball on the right",
    "two dogs in front of two dogs' houses",
    "眼前是一只狗",
    "Ένας σκύλος στο χιόνι",
)


def dropped(text: str, ended: bool = True) -> dict[str, int]:
    return dict(sift([(text, ended)], clean)[1])


@pytest.mark.parametrize("text", GOOD)
def test_captions_are_kept(text: str) -> None:
    assert sift([(text, True)], keep) == ([text], {}, {})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("question: what kind of thing is the green thing ? answer: symbol", "question"),
        ("Question : yes, Answer: no", "question"),
        ("is there a dog?", "question"),
        ("<h2>a dog</h2>", "markup"),
        ("a dog ![](dog.png)", "markup"),
        ("a dog \ufffd runs", "markup"),
        ("see https://dogs.org for dogs", "markup"),
        ("ground, ground, ground", "repetition"),
        ("a large orange top top top on the floor", "repetition"),
        ("in the shape of a small purple fish in the shape of a small purple fish", "repetition"),
        ("a small red and white ball is a small red and white ball", "repetition"),
        ("a dog in der собака собака2 кошка", "other script"),
        ("a", "short"),
        ("ox", "short"),
        ("...", "short"),
    ],
)
def test_what_is_no_caption_is_dropped(text: str, kind: str) -> None:
    assert dropped(text) == {kind: 1}
    assert kind in RULE


def test_a_caption_that_was_cut_is_dropped() -> None:
    assert dropped("a dog on a", ended=False) == {"unfinished": 1}


def test_captions_that_are_equal_once_they_are_cleaned_count_once() -> None:
    kept, out, first = sift([("A dog.", True), ("a dog", True), ("a cat", False)], clean)
    assert kept == ["a dog"]
    assert out == {"duplicate": 1, "unfinished": 1}
    assert first == {"duplicate": "a dog", "unfinished": "a cat"}

"""Each kind of bad model is told, by the stated rule, and a good one is not."""

from __future__ import annotations

import pytest

from vpgtrans_core.sight.babble import faults
from vpgtrans_core.sight.verdict import AT_CHANCE, TRAIN_LONGER, Losses, judge

GOOD = Losses(first=2.4, loss=1.2, own=1.2, exchanged=1.9, text_only=1.8, source=1.0, source_sees=1.2)
CAPTIONS = ["a dog on the grass", "two red cars", "a man who rides a horse", "a blue bowl of soup"]


def kinds(losses: Losses, steps: int = 100) -> list[str]:
    return [problem.kind for problem in judge(losses, steps=steps).problems]


def change(**values: float | None) -> Losses:
    return Losses(**{**{k: v for k, v in GOOD.record().items() if k != "sees"}, **values})


def test_a_good_model() -> None:
    verdict = judge(GOOD, CAPTIONS, CAPTIONS, steps=100)
    assert verdict.sentence == "sees: 0.70 nats of 1.20 that the source sees"
    assert verdict.problems == () and verdict.warnings == []
    assert judge(Losses()).sentence == "" and kinds(Losses()) == []
    assert judge(change(source_sees=None)).sentence == "sees: 0.70 nats a token"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (change(exchanged=1.22), ["blind"]),
        (change(exchanged=1.1), ["blind"]),  # other pictures are even better
        (change(exchanged=1.24, source_sees=None), []),
        (change(exchanged=1.29), ["blind"]),  # 0.09 of the source's 1.20
        (change(exchanged=1.33), []),
        (change(source_sees=0.01), ["source blind"]),
        (change(first=1.2), ["not learned"]),
        (change(first=1.205), ["not learned"]),
        (change(first=1.25), []),
        (change(first=1.2, source=1.25), []),  # it was as good as its source from the start
        (change(text_only=1.1), ["above text-only"]),
        (change(first=1.0, exchanged=1.2, text_only=1.1), ["blind", "not learned", "above text-only"]),
    ],
)
def test_losses(losses: Losses, expected: list[str]) -> None:
    assert kinds(losses) == expected


def test_without_a_step_a_loss_need_not_fall() -> None:
    assert kinds(change(first=1.2), steps=0) == []


def test_all_problems_are_told_and_the_last_with_advice() -> None:
    verdict = judge(change(exchanged=1.2, text_only=1.1), steps=10)
    assert len(verdict.warnings) == 2 and verdict.warnings[-1].endswith(TRAIN_LONGER)
    assert judge(change(exchanged=1.2), at_chance=True).warnings[-1].endswith(AT_CHANCE)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (["", " ", "", "a dog"], "empty"),
        (["a dog"] * 4, "constant"),
        (["a dog", "a dog ", "a dog", ""], "constant"),
        (["ground, ground, ground", "a large orange top top top", "snow snow snow", "a dog"], "repetition"),
        (["in the shape of a small purple fish in the shape of a small purple fish"] * 2 + ["x", "the the the"],
         "repetition"),
        (["a small red and white ball is a small red and white ball"] * 3 + ["a dog"], "repetition"),
        (["redredredredred", "redredredred", "redredredred", "a"], "repetition"),
        (["собака на траве", "две машины", "лошадь", "a bowl"], "script"),
        (["<h2>Dog</h2>", "a.b.c.d.e.f.", "see https://example.org", "a dog"], "markup"),
    ],
)  # fmt: skip
def test_babble(said: list[str], kind: str) -> None:
    assert kind in faults(said, CAPTIONS)


@pytest.mark.parametrize(
    "said",
    [
        [],
        CAPTIONS,
        ["a dog", "a dog"],  # two pictures may be of the same thing
        ["a dog", "a cat", "a dog", "a dog"],
        ["a dog", "", "a cat", ""],
        ["on the ice a small orange heart on the left side of a large green tree"] * 2
        + ["a very very big dog", "soup"],
        ["a café", "a 5 o'clock tea", "a man & a woman", "rock 'n' roll"],
        ["ground ground ground", "a dog", "a cat", "a bird"],  # one of four
    ],
)
def test_captions_are_not_babble(said: list[str]) -> None:
    assert faults(said, CAPTIONS) == {}


def test_what_the_captions_do_themselves_is_no_fault() -> None:
    russian = ["собака на траве", "две машины", "лошадь", "миска супа"]
    assert faults(russian, russian) == {}
    assert faults(["<b>a</b>", "<b>b</b>"], ["<b>dog</b>", "<b>cat</b>"]) == {}
    assert faults(["a dog"] * 3, ["a dog"] * 3) == {}

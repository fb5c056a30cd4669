"""VQA's accuracy and exact match: by their definitions, and against lmms-eval's."""

from __future__ import annotations

import random

import pytest

from vpgtrans_core.evaluation.metrics.exact import Exact
from vpgtrans_core.evaluation.metrics.vqa import VQAAccuracy, accuracy, plain_words, without_punctuation

WORDS = [
    "two", "a red ball", "The dog.", "it's", "dont", "1,000", "1.5", "ten.", "yes", "no", "black/white", "t-shirt",
    "none", "wouldnt've", "an apple, a pear", "blue & white", "(left)", "what's up?", "St. Mary", "half-pipe", "",
    "yall'll", "won't",
]  # fmt: skip


@pytest.mark.parametrize(("same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_each_of_ten_annotators_is_left_out_once(same: int, expected: float) -> None:
    people = ["cat"] * same + [f"other {n}" for n in range(10 - same)]
    assert accuracy("Cat.", people) == pytest.approx(expected)


def test_answers_are_brought_to_a_plain_form() -> None:
    assert plain_words(without_punctuation("The two dogs, dont run.")) == "2 dogs don't run"
    assert without_punctuation("black/white") == "black white" and without_punctuation("1,000/2") == "10002"
    assert without_punctuation("1.5 st.") == "1.5 st"


def test_people_who_agree_keep_their_punctuation() -> None:
    """As on the server: there the only answer, with its hyphen, cannot be met."""
    assert accuracy("t-shirt", ["t-shirt"] * 10) == 0.0
    assert accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1.0


def test_the_form_is_that_of_lmms_eval() -> None:
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    theirs = EvalAIAnswerProcessor()
    spelled = list(EvalAIAnswerProcessor.CONTRACTIONS)
    for text in [*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS), *spelled]:
        punctuated = theirs.process_punctuation(text)
        assert without_punctuation(text) == punctuated
        assert plain_words(punctuated) == theirs.process_digit_article(punctuated)


def test_accuracy_is_that_of_lmms_eval() -> None:
    """On answers of people that need no more than their punctuation removed, as those of the dataset do."""
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results

    rng = random.Random(0)
    people_say = ["2", "red ball", "dog", "yes", "no", "t-shirt", "black/white", "it's", "1,000"]
    answers, references = [], []
    for _ in range(300):
        people = rng.choices(rng.sample(people_say, rng.randint(2, 4)), k=10)
        if len(set(people)) > 1:
            answers.append(rng.choice([*people, *WORDS]))
            references.append(people)
    scores = VQAAccuracy().score(answers, references)
    theirs = []
    for answer, people in zip(answers, references, strict=True):
        rows = [{"answer": one, "answer_id": number} for number, one in enumerate(people)]
        theirs.append(vqav2_process_results({"answers": rows, "question_id": 1}, [answer])["exact_match"])
    assert scores.each == pytest.approx(theirs, abs=1e-6)
    assert scores.value == pytest.approx(sum(theirs) / len(theirs), abs=1e-6) and 0.2 < scores.value < 0.9


def test_exact_match() -> None:
    references = [["yes"], ["on the right", "On the left"], ["cat"], ["a"]]
    scores = Exact().score(["Yes.", "on the left", "dog", ""], references)
    assert scores.each == (1.0, 1.0, 0.0, 0.0) and scores.value == 0.5


def test_exact_match_is_that_of_lmms_eval() -> None:
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    pairs = [("Yes.", "yes"), ("t-shirt", "tshirt"), ("a dog", "dog"), ("LEFT", "left"), ("two", "2"), ("it's", "its")]
    rules = {"ignore_case": True, "ignore_punctuation": True}  # those of its task gqa
    theirs = [exact_match_hf_evaluate(predictions=[a], references=[b], **rules)["exact_match"] for a, b in pairs]
    assert Exact().score([a for a, _ in pairs], [[b] for _, b in pairs]).each == tuple(map(float, theirs))

"""How a task's words become BLIP-2's, and how far a request's generation arguments reach."""

from __future__ import annotations

import pytest

from vpgtrans_core.evaluation.prompts import LONG, as_blip2, as_given, ask, cut, is_caption, until
from vpgtrans_core.llm.adapter import GenerateOptions

QUESTION = "Question: {} Answer:"
UNSURE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
SHORT = "\nAnswer the question using a single word or phrase."


def blip2(context: str, own=None, **wanted):
    return as_blip2(context, wanted, caption_prompt="", question_prompt=QUESTION, own=own or {})


@pytest.mark.parametrize("context", ["Provide a one-sentence caption for the provided image.", "", "Describe it."])
def test_captions_have_no_prompt_and_the_papers_search(context: str) -> None:
    asked = blip2(context, max_new_tokens=64, num_beams=1, temperature=0)
    assert asked.prompt == ""
    assert asked.options == GenerateOptions(num_beams=5, min_new_tokens=8, max_new_tokens=30, length_penalty=1.0)


@pytest.mark.parametrize(
    ("context", "question"),
    [
        ("What is it?" + SHORT, "What is it?"),
        ("What is it?" + UNSURE + SHORT, "What is it?"),
        ("<image>\nWhat is it?\n", "What is it?"),
        ("Which?\nA. one\nB. two\nAnswer with the option's letter from the given choices directly.",
         "Which?\nA. one\nB. two"),
        ("Is the description on the sign red?", "Is the description on the sign red?"),
        ("Please count." , "Please count."),
    ],
)  # fmt: skip
def test_questions_stand_in_the_papers_prompt(context: str, question: str) -> None:
    asked = blip2(context, max_new_tokens=16)
    assert asked.prompt == f"Question: {question} Answer:"
    assert asked.options == GenerateOptions(num_beams=5, min_new_tokens=1, max_new_tokens=10, length_penalty=-1.0)


def test_a_prompt_of_this_kind_is_left_alone() -> None:
    assert ask("Question: what is it? Answer:", "Question: {} Short answer:") == "Question: what is it? Answer:"


def test_a_request_may_shorten_and_the_user_has_the_last_word() -> None:
    assert blip2("caption", max_new_tokens=5).options == GenerateOptions(max_new_tokens=5, min_new_tokens=5)
    assert blip2("What?", max_new_tokens=3).options.max_new_tokens == 3
    options = blip2("What?", own={"num_beams": 1, "max_new_tokens": 50}, max_new_tokens=3).options
    assert (options.num_beams, options.max_new_tokens) == (1, 50)


def test_the_tasks_own_words() -> None:
    asked = as_given("What?" + SHORT, {"max_new_tokens": 16, "num_beams": 3}, own={})
    assert asked.prompt == "What?" + SHORT and asked.options.num_beams == 3 and asked.options.max_new_tokens == 16
    assert as_given("x", {}, own={}).options.max_new_tokens == LONG


def test_captions_and_questions_are_told_apart() -> None:
    assert (
        is_caption("Write a caption.") and not is_caption("What caption is on the sign?") and not is_caption("Count.")
    )


def test_ends() -> None:
    assert until({"until": None}) == until({}) == [] and until({"until": "."}) == ["."]
    assert cut(" a dog. a cat", until({"until": ["", ".", "cat"]})) == "a dog" and cut("a", []) == "a"


def test_braces_in_a_prompt_are_only_text() -> None:
    assert ask("What {is} it?", "{a} {}: {0}") == "{a} What {is} it?: {0}"


def test_a_question_prompt_without_a_place_for_the_question() -> None:
    pytest.importorskip("lmms_eval")
    from vpgtrans_core.errors import ConfigError
    from vpgtrans_core.evaluation.lmms_eval import VpgtModel

    with pytest.raises(ConfigError, match="no place for the question"):
        VpgtModel(pretrained="nowhere", question_prompt="Answer:")

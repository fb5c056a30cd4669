"""VQA's accuracy by the rules of its server: the answer is brought to a plain form, then compared with ten people's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores, mean

ENOUGH = 3
"""Other annotators who must have given an answer for it to count in full."""
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_ARTICLES = ("a", "an", "the")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
"""What the server writes with apostrophes where the answer has none."""
_ODD = {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}
_ODD |= {short: "y'all'd've" for short in ("yall'd've", "y'alld've", "y'all'dve")}


def _misspelled(word: str) -> Iterator[str]:
    """A contraction without its apostrophe; of two apostrophes, as the server lists them, one is missing."""
    if word.count("'") == 1:
        yield word.replace("'", "")
    else:
        first, middle, last = word.split("'")
        yield from (f"{first}{middle}'{last}", f"{first}'{middle}{last}")


_SPELLED = {short: word for word in _CONTRACTIONS for short in _misspelled(word)} | _ODD


class VQAAccuracy(Metric):
    """For each annotator left out in turn: min(1, others who gave this answer / 3); the mean of it."""

    title: ClassVar[str] = "VQA accuracy"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return mean([accuracy(a, people) for a, people in zip(answers, references, strict=True)])


def accuracy(answer: str, people: Sequence[str]) -> float:
    """The accuracy of one answer. People's answers lose their punctuation only where they differ, as on the server."""
    said = plain_words(without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))
    given = [without_punctuation(one) for one in people] if len(set(people)) > 1 else list(people)
    same = Counter(given)[said]
    others = [same - (one == said) for one in given]
    return sum(min(1.0, count / ENOUGH) for count in others) / len(others)


def without_punctuation(text: str) -> str:
    """The text without punctuation: a mark beside a space, or in a text with a number like 1,000, goes; any other
    becomes a space. Points go unless a digit follows."""
    thousands = _NUMBER_WITH_COMMA.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        alone = thousands or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if alone else " ")
    return _PERIOD.sub("", cleaned)


def plain_words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes where contractions lack them."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_SPELLED.get(word, word) for word in words if word not in _ARTICLES)

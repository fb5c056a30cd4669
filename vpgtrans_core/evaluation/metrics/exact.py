"""Exact match, by which GQA's answers are judged."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import ClassVar

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores, mean

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Exact(Metric):
    """Whether an answer is one of its references, but for case, punctuation and spaces around it."""

    title: ClassVar[str] = "exact match"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return mean([float(_plain(a) in map(_plain, several)) for a, several in zip(answers, references, strict=True)])


def _plain(text: str) -> str:
    return text.lower().translate(_PUNCTUATION).strip()

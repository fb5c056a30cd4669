"""ROUGE-L as the COCO server computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores, mean
from vpgtrans_core.evaluation.metrics.ptb import tokens

BETA = 1.2


class RougeL(Metric):
    """Best precision and best recall over the references, which need not be of the same one."""

    title: ClassVar[str] = "ROUGE-L"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return mean([_rouge(a, several) for a, several in zip(answers, references, strict=True)])


def _rouge(answer: str, references: Sequence[str]) -> float:
    words = tokens(answer).split(" ")  # an empty text is one empty word, as in the reference implementation
    others = [tokens(reference).split(" ") for reference in references]
    common = [_longest_common(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(n / len(other) for n, other in zip(common, others, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for i, candidate in enumerate(other, 1):
            before, lengths[i] = lengths[i], before + 1 if word == candidate else max(lengths[i], lengths[i - 1])
    return lengths[-1]

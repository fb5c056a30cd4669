"""BLEU-4 as the COCO server computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import ClassVar

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores
from vpgtrans_core.evaluation.metrics.ngrams import LONGEST, NGram, ngrams
from vpgtrans_core.evaluation.metrics.ptb import tokens

SMALL, TINY = 1e-9, 1e-15
"""What the reference implementation adds below and above its fractions."""


class Bleu4(Metric):
    """Counts are summed over all captions; of the references' lengths the closest counts. A sample's own value is that
    of a corpus of it alone."""

    title: ClassVar[str] = "BLEU-4"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        counts = [
            _count(tokens(a), [tokens(r) for r in several]) for a, several in zip(answers, references, strict=True)
        ]
        whole = [sum(column) for column in zip(*counts, strict=True)]
        return Scores(_bleu(whole), tuple(map(_bleu, counts)))


def _count(answer: str, references: Sequence[str]) -> list[int]:
    """Words of the answer, words of the closest reference, n-grams by length, and those that are in a reference."""
    words = len(answer.split())
    closest = min((abs(n - words), n) for n in (len(reference.split()) for reference in references))[1]
    allowed = reduce(or_, map(ngrams, references), Counter[NGram]())
    matched = [0] * LONGEST
    for gram, count in (ngrams(answer) & allowed).items():
        matched[len(gram) - 1] += count
    return [words, closest, *(max(0, words - n) for n in range(LONGEST)), *matched]


def _bleu(counts: Sequence[int]) -> float:
    words, closest, guessed, matched = counts[0], counts[1], counts[2 : 2 + LONGEST], counts[2 + LONGEST :]
    precision = math.prod((m + TINY) / (g + SMALL) for m, g in zip(matched, guessed, strict=True))
    ratio = (words + TINY) / (closest + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return precision ** (1 / LONGEST) * brevity

"""CIDEr-D (Vedantam, Zitnick and Parikh, CVPR 2015) as the COCO server computes it.

Written here because its published library, pycocoevalcap, is a download of a hundred megabytes of Java for what are
forty lines without it; the tests compare the two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vpgtrans_core.evaluation.metrics.metric import Metric, Scores, mean
from vpgtrans_core.evaluation.metrics.ngrams import LONGEST, NGram, ngrams
from vpgtrans_core.evaluation.metrics.ptb import tokens

SIGMA = 6.0
"""Width of the Gaussian by which a difference in length is punished."""
SCALE = 10.0


class Cider(Metric):
    """Document frequencies are those of the references that are scored together, an image a document: a part of a task
    has other values than it has within the whole, and a single image has none."""

    title: ClassVar[str] = "CIDEr"

    def score(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        counted = [[ngrams(tokens(reference)) for reference in several] for several in references]
        documents = Counter(gram for several in counted for gram in set().union(*several))
        log_images = math.log(len(counted))
        weights = {gram: log_images - math.log(count) for gram, count in documents.items()}
        each = []
        for answer, several in zip(answers, counted, strict=True):
            vector = _weigh(ngrams(tokens(answer)), weights, log_images)
            similar = [_similarity(vector, _weigh(reference, weights, log_images)) for reference in several]
            each.append(SCALE * sum(similar) / len(similar))
        return mean(each)


@dataclass(frozen=True)
class _Vector:
    """TF-IDF of a caption's n-grams. `length` counts its bigrams, as the reference implementation does."""

    values: dict[NGram, float]
    norms: tuple[float, ...]
    length: int


def _weigh(counts: Counter[NGram], weights: Mapping[NGram, float], unseen: float) -> _Vector:
    values = {gram: count * weights.get(gram, unseen) for gram, count in counts.items()}
    squares = [0.0] * LONGEST
    for gram, value in values.items():
        squares[len(gram) - 1] += value**2
    bigrams = sum(count for gram, count in counts.items() if len(gram) == 2)
    return _Vector(values, tuple(map(math.sqrt, squares)), bigrams)


def _similarity(answer: _Vector, reference: _Vector) -> float:
    """Clipped cosine, averaged over the lengths of n-grams."""
    products = [0.0] * LONGEST
    for gram, value in answer.values.items():
        other = reference.values.get(gram, 0.0)
        products[len(gram) - 1] += min(value, other) * other
    norms = [a * b for a, b in zip(answer.norms, reference.norms, strict=True)]
    cosines = [product / norm if norm else product for product, norm in zip(products, norms, strict=True)]
    return math.exp(-((answer.length - reference.length) ** 2) / (2 * SIGMA**2)) * sum(cosines) / LONGEST

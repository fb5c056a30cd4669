"""The word converter ``g(x) = W_w x + b_w``: from the source LLM's word embeddings to the target's.

The paper trains it by SGD on caption tokens (`fit_sgd`). Its result depends only on the distinct words, so `fit_ridge`
computes it in closed form, in a hundredth of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.start.pairs import CaptionTokens, Table, WordPairs, rows, word_vectors
from vpgtrans_core.start.projector import random_projector

RIDGES = tuple(10.0 ** (k / 2) for k in range(-8, 3))
"""Strengths tried, relative to the mean variance of a direction: 1e-4 to 10."""
CHUNK = 4096
"""Words whose embeddings are in memory at once."""
JUDGED = 512
"""Words, at most, on which the ridge is chosen."""


@dataclass(frozen=True)
class WordConverter:
    """A linear map between embedding spaces: `weight` ``[D_t, D_s]``, `bias` ``[D_t]``, fp32.

    `ridge` and `held_out` say how it was chosen: the relative strength, and the mean cosine on words left out.
    """

    weight: Tensor
    bias: Tensor
    ridge: float = math.nan
    held_out: float = math.nan

    def __call__(self, x: Tensor) -> Tensor:
        """Word embeddings ``[..., D_s]`` to ``[..., D_t]``."""
        return nn.functional.linear(x, self.weight, self.bias)


# ------------------------------------------------------------------------------------------------- closed form


@torch.no_grad()
def fit_ridge(
    pairs: WordPairs,
    source: Table,
    target: Table,
    *,
    power: float = 0.5,
    ridges: Sequence[float] = RIDGES,
    seed: int = 0,
) -> WordConverter:
    """Fit the converter in closed form on distinct words.

    Minimises ``sum_p weight_p^power |W x_p + b - y_p / |y_p||^2 + ridge |W|^2`` (unit targets, because the paper's
    loss is the cosine) and then gives ``g`` the target's length (root mean square). The strength is the one with the
    best mean cosine on words left out, each left out by itself: with one eigendecomposition that is exact and free of
    refits.

    Memory beside the tables: ``CHUNK`` rows of both, and about five matrices ``[D_s, max(D_s, D_t)]`` in fp64.

    Args:
        pairs: P words.
        source, target: word embeddings ``[V_s, D_s]``, ``[V_t, D_t]``.
        power: 0 counts every word once, 1 by its frequency; 0.5 generalises best.
        ridges: relative strengths to choose from.
        seed: of the words on which the strength is judged.

    Raises:
        ModelError: fewer than two pairs, or embeddings that are not finite.
    """
    if len(pairs) < 2:
        raise ModelError(f"{len(pairs)} word pairs are too few for a word converter", "use --start random")
    weights = pairs.weights.clamp_min(1e-12) ** power
    weights = weights / weights.sum()
    regression = _Regression(pairs, source, target, weights)
    strengths = regression.strengths(ridges)
    judged = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:JUDGED]
    scores = regression.left_out_cosines(strengths, judged)
    best = int(scores.argmax())
    weight, bias, length = regression.solution(strengths[best])
    return WordConverter(
        (weight * length).float(), (bias * length).float(), ridge=ridges[best], held_out=float(scores[best])
    )


@dataclass(frozen=True)
class _Means:
    """Weighted means of the pairs in fp64.

    y are the target's words as unit vectors; `length` is the root mean square of their norms before that.
    """

    x: Tensor
    y: Tensor
    length: float


def _chunks(pairs: WordPairs, weights: Tensor) -> Iterator[tuple[WordPairs, Tensor]]:
    for start in range(0, len(pairs), CHUNK):
        index = torch.arange(start, min(start + CHUNK, len(pairs)))
        yield pairs.subset(index), weights[index]


def _rows(pairs: WordPairs, source: Table, target: Table) -> tuple[Tensor, Tensor]:
    x, y = word_vectors(source, pairs.source), word_vectors(target, pairs.target)
    if not torch.isfinite(x.sum() + y.sum()):
        raise ModelError(
            "word embeddings hold values that are not finite", "the checkpoint is damaged; download it again"
        )
    return x, y.to(x.device)


def _unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def _means(pairs: WordPairs, source: Table, target: Table, weights: Tensor) -> _Means:
    """The first of two passes: products in fp32 are exact enough only of centred rows."""
    mean_x: Tensor | float = 0.0
    mean_y: Tensor | float = 0.0
    length = 0.0
    for part, w in _chunks(pairs, weights):
        x, y = _rows(part, source, target)
        w = w.to(x.device)
        mean_x, mean_y = mean_x + w @ x.double(), mean_y + w @ _unit(y).double()
        length += float(w @ y.square().sum(-1).double())
    assert isinstance(mean_x, Tensor) and isinstance(mean_y, Tensor)
    return _Means(mean_x, mean_y, math.sqrt(length))


def _products(pairs: WordPairs, source: Table, target: Table, weights: Tensor, means: _Means) -> tuple[Tensor, Tensor]:
    """Centred second moments ``[D_s, D_s]`` and ``[D_s, D_t]`` in fp64."""
    xx = means.x.new_zeros(len(means.x), len(means.x))
    xy = means.x.new_zeros(len(means.x), len(means.y))
    for part, w in _chunks(pairs, weights):
        x, y = _rows(part, source, target)
        root = w.sqrt().to(x)[:, None]
        x, y = root * (x - means.x.float()), root * (_unit(y) - means.y.float())
        xx += x.T @ x
        xy += x.T @ y
    return xx, xy


class _Regression:
    """Ridge regression of unit targets on the source's words, for all strengths: one eigendecomposition in fp64.

    Args:
        pairs: P words; `weights` ``[P]`` sum to 1.
        source, target: word embeddings.
    """

    def __init__(self, pairs: WordPairs, source: Table, target: Table, weights: Tensor) -> None:
        self.pairs, self.source, self.target, self.weights = pairs, source, target, weights
        self.means = _means(pairs, source, target, weights)
        xx, xy = _products(pairs, source, target, weights, self.means)
        values, self.basis = torch.linalg.eigh(xx)
        self.values = values.clamp_min(0)
        self.coefficients = self.basis.T @ xy  # [D_s, D_t]

    def strengths(self, ridges: Sequence[float]) -> Tensor:
        """Absolute strengths ``[R]`` of relative ones."""
        relative = torch.tensor(ridges, dtype=torch.float64, device=self.values.device)
        return relative * self.values.mean().clamp_min(1e-30)

    def left_out_cosines(self, strengths: Tensor, judged: Tensor) -> Tensor:
        """Mean cosine ``[R]`` on the `judged` words for each strength, each word predicted without itself.

        For a linear smoother the prediction without word i follows from the one with it: ``y_i - y^_-i = (y_i - y^_i) /
        (1 - h_i)`` with the leverage ``h_i = w_i (1 + z_i' (S + ridge)^-1 z_i)``.
        """
        x, y = _rows(self.pairs.subset(judged), self.source, self.target)
        y = _unit(y)
        z = (x.double() - self.means.x) @ self.basis
        w = self.weights[judged].to(z.device)
        coefficients, mean = self.coefficients.float(), self.means.y.float()
        scores = []
        for strength in strengths:
            shrunk = z / (self.values + strength)
            fitted = shrunk.float() @ coefficients + mean
            leverage = (w * (1 + (shrunk * z).sum(-1))).clamp(max=1 - 1e-6).float()
            left_out = y - (y - fitted) / (1 - leverage)[:, None]
            scores.append(nn.functional.cosine_similarity(left_out, y).mean())
        return torch.stack(scores)

    def solution(self, strength: Tensor) -> tuple[Tensor, Tensor, float]:
        """Weight ``[D_t, D_s]`` and bias ``[D_t]`` for one strength, and the factor that gives the target's length."""
        weight = ((self.basis / (self.values + strength)) @ self.coefficients).T
        bias = self.means.y - weight @ self.means.x
        # The mean square of |g(x)|, from the same moments: that of the centred part, and that of the mean.
        centred = (self.values / (self.values + strength) ** 2) @ self.coefficients.square().sum(1)
        mean_square = centred + self.means.y.square().sum()
        return weight, bias, self.means.length / float(mean_square.sqrt().clamp_min(1e-30))


# ---------------------------------------------------------------------------------------------- the paper's way


def fit_sgd(
    tokens: CaptionTokens,
    source: Table,
    target: Table,
    *,
    epochs: int = 5,
    lr: float = 5.0,
    batch: int = 4096,
    seed: int = 0,
) -> WordConverter:
    """Fit the converter as in the paper and its code: SGD on caption tokens, loss ``1 - cos`` (section 4.2).

    Args:
        tokens: caption tokens paired by position.
        source, target: word embeddings ``[V_s, D_s]``, ``[V_t, D_t]``.
        epochs: 5 within a family, 8 across types in the paper.
        lr: constant learning rate of SGD.
        batch: captions per step.
        seed: of the initialisation and of the order.

    Raises:
        ModelError: no caption has the same number of tokens in both tokenizers.
    """
    if not len(tokens.lengths):
        raise ModelError(
            f"none of {tokens.dropped} captions has the same number of tokens in the source as in the target",
            "use --converter ridge, which pairs words instead of positions",
        )
    generator = torch.Generator().manual_seed(seed)
    d_s, d_t = (rows(table, torch.tensor([0])).shape[1] for table in (source, target))
    weight, bias = (nn.Parameter(t) for t in random_projector(d_s, d_t, seed))
    optimizer = torch.optim.SGD([weight, bias], lr=lr)
    starts = tokens.lengths.cumsum(0) - tokens.lengths
    for _ in range(epochs):
        for captions in torch.randperm(len(starts), generator=generator).split(batch):
            index = _token_index(starts[captions], tokens.lengths[captions])
            x, y = rows(source, tokens.source[index]), rows(target, tokens.target[index])
            loss = (1 - nn.functional.cosine_similarity(nn.functional.linear(x, weight, bias), y)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return WordConverter(weight.detach(), bias.detach())


def _token_index(starts: Tensor, lengths: Tensor) -> Tensor:
    """Positions of all tokens of captions that begin at `starts` ``[C]`` and have `lengths` ``[C]`` tokens."""
    before = lengths.cumsum(0) - lengths
    return torch.repeat_interleave(starts - before, lengths) + torch.arange(int(lengths.sum()))


# ------------------------------------------------------------------------------------------------------ quality


@torch.no_grad()
def cosine(
    converter: WordConverter, pairs: WordPairs, source: Table, target: Table, *, by_token: bool = False
) -> float:
    """Mean cosine between converted words and the target's: of distinct words, or of tokens as they occur."""
    weights = pairs.weights if by_token else torch.ones(len(pairs), dtype=torch.float64)
    total = 0.0
    for part, w in _chunks(pairs, weights):
        x, y = _rows(part, source, target)
        total += float(nn.functional.cosine_similarity(converter(x), y).double().cpu() @ w)
    return total / float(weights.sum())


def split_pairs(pairs: WordPairs, share: float = 0.1, seed: int = 0) -> tuple[WordPairs, WordPairs]:
    """Split into words to fit on and words held out."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    held = max(1, round(share * len(pairs)))
    return pairs.subset(order[held:]), pairs.subset(order[:held])

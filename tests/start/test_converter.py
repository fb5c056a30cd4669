"""The word converter: the algebra of the closed form, what it generalises, and the paper's way."""

from __future__ import annotations

import pytest
import torch

from vpgtrans_core.errors import ModelError
from vpgtrans_core.start import converter as module
from vpgtrans_core.start.converter import WordConverter, cosine, fit_ridge, fit_sgd, split_pairs
from vpgtrans_core.start.pairs import CaptionTokens, WordPairs


def identity_pairs(count: int, seed: int = 0) -> WordPairs:
    """`count` words of one token each, with frequencies like those of words."""
    ids = tuple((i,) for i in range(count))
    ranks = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) + 1
    return WordPairs(ids, ids, (1000.0 / ranks).ceil().double(), ("same",) * count, torch.ones(count, dtype=torch.bool))


def related_tables(count: int, d_s: int = 24, d_t: int = 32, noise: float = 0.3, seed: int = 0):
    """Two embedding tables of the same words: linear relation, offset and noise."""
    g = torch.Generator().manual_seed(seed)
    source = torch.randn(count, d_s, generator=g) * torch.linspace(0.2, 2, d_s) + 0.5
    relation = torch.randn(d_s, d_t, generator=g) / d_s**0.5
    target = 0.1 * (source @ relation + 1 + noise * torch.randn(count, d_t, generator=g))
    return source, target


def as_captions(pairs: WordPairs, count: int = 400, seed: int = 0) -> CaptionTokens:
    """Captions of 8 tokens drawn by frequency."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(pairs.weights, count * 8, replacement=True, generator=g)
    ids = torch.tensor([w[0] for w in pairs.source])[drawn]
    return CaptionTokens(ids, ids, torch.full((count,), 8), 0)


def test_a_linear_relation_is_found_exactly() -> None:
    source, target = related_tables(300, noise=0.0)
    found = fit_ridge(identity_pairs(300), source, target, ridges=(1e-12,))
    x, y = source[:50], target[:50]
    assert torch.nn.functional.cosine_similarity(found(x), y).min() > 0.98  # unit targets bend it a little
    assert found(source).norm(dim=-1).mean() == pytest.approx(float(target.norm(dim=-1).mean()), rel=0.05)


def test_the_closed_form_is_the_minimum() -> None:
    """No step in any direction lowers the weighted ridge loss."""
    source, target = related_tables(120)
    pairs = identity_pairs(120)
    found = fit_ridge(pairs, source, target, ridges=(1e-2,))
    w = pairs.weights**0.5
    w = w / w.sum()
    y = torch.nn.functional.normalize(target).double()
    x = source.double()
    mean = w @ x
    strength = 1e-2 * torch.linalg.eigvalsh((w[:, None] * (x - mean)).T @ (x - mean)).mean()
    # The converter is the minimum up to the factor that gives it the target's length.
    weight = torch.zeros(32, 24, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w * (x @ weight.T + bias - y).square().sum(-1)).sum() + strength * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    ratio = float(found.weight.norm() / weight.detach().norm())
    torch.testing.assert_close(found.weight, (ratio * weight.detach()).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.bias, (ratio * bias.detach()).float(), rtol=1e-3, atol=1e-4)


def test_leaving_one_out_equals_refitting_without_it() -> None:
    source, target = related_tables(40, d_s=12)
    pairs = identity_pairs(40)
    ridge = 0.1
    found = fit_ridge(pairs, source, target, ridges=(ridge,))
    w = (pairs.weights**0.5 / (pairs.weights**0.5).sum()).double()
    y = torch.nn.functional.normalize(target).double()
    x = source.double()
    centred = x - w @ x
    strength = ridge * float(torch.trace((w[:, None] * centred).T @ centred)) / 12
    cosines = []
    for i in range(40):
        keep = torch.arange(40) != i
        share = w[keep]
        mean_x, mean_y = share @ x[keep] / share.sum(), share @ y[keep] / share.sum()
        a, b = x[keep] - mean_x, y[keep] - mean_y
        weight = torch.linalg.solve((share[:, None] * a).T @ a + strength * torch.eye(12), (share[:, None] * a).T @ b)
        cosines.append(torch.nn.functional.cosine_similarity((x[i] - mean_x) @ weight + mean_y, y[i], dim=0))
    assert found.held_out == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-5)


def test_noise_calls_for_a_stronger_ridge() -> None:
    pairs = identity_pairs(60)
    weak = fit_ridge(pairs, *related_tables(60, noise=0.01))
    strong = fit_ridge(pairs, *related_tables(60, noise=3.0))
    assert strong.ridge > weak.ridge


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = related_tables(200)
    whole = fit_ridge(identity_pairs(200), source, target)
    monkeypatch.setattr(module, "CHUNK", 17)
    parts = fit_ridge(identity_pairs(200), source, target)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-3, atol=1e-5)
    assert parts.ridge == whole.ridge


def test_half_precision_tables_do(recwarn) -> None:
    source, target = related_tables(200)
    full = fit_ridge(identity_pairs(200), source, target)
    half = fit_ridge(identity_pairs(200), source.half(), target.half())
    pairs = identity_pairs(200)
    assert cosine(half, pairs, source, target) == pytest.approx(cosine(full, pairs, source, target), abs=1e-3)


def test_more_dimensions_than_words() -> None:
    source, target = related_tables(30, d_s=64)
    fit, held = split_pairs(identity_pairs(30), 0.2)
    found = fit_ridge(fit, source, target)
    assert torch.isfinite(found.weight).all()
    assert cosine(found, held, source, target) > 0.3


def test_sgd_comes_near_the_closed_form_on_easy_data() -> None:
    source, target = related_tables(80, d_s=8, d_t=10, noise=0.05)
    pairs = identity_pairs(80)
    found = fit_sgd(as_captions(pairs), source, target, epochs=200, batch=400)
    assert (
        cosine(found, pairs, source, target, by_token=True)
        > cosine(fit_ridge(pairs, source, target), pairs, source, target, by_token=True) - 0.02
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_closed_form_generalises_at_least_as_well(seed: int) -> None:
    source, target = related_tables(400, noise=0.5, seed=seed)
    fit, held = split_pairs(identity_pairs(400), 0.2, seed=seed)
    paper = fit_sgd(as_captions(fit), source, target, epochs=8, batch=64, seed=seed)
    ridge = fit_ridge(fit, source, target)
    assert cosine(ridge, held, source, target) >= cosine(paper, held, source, target)


def test_shuffled_pairs_teach_nothing() -> None:
    source, target = related_tables(400)
    target = target - target.mean(0)  # without the direction that all words share
    fit, held = split_pairs(identity_pairs(400), 0.2)
    assert cosine(fit_ridge(fit, source, target), held, source, target) > 0.9
    assert abs(cosine(fit_ridge(fit.shuffled(0), source, target), held, source, target)) < 0.15


def test_sgd_without_captions_of_equal_length_is_an_error() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    with pytest.raises(ModelError, match="none of 7 captions"):
        fit_sgd(CaptionTokens(empty, empty, empty, 7), torch.randn(3, 2), torch.randn(3, 2))


def test_sgd_is_reproducible() -> None:
    source, target = related_tables(50)
    tokens = as_captions(identity_pairs(50), 20)
    assert torch.equal(fit_sgd(tokens, source, target, seed=3).weight, fit_sgd(tokens, source, target, seed=3).weight)


def test_bad_embeddings_are_refused() -> None:
    source, target = related_tables(50)
    source[7, 3] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        fit_ridge(identity_pairs(50), source, target)
    with pytest.raises(ModelError, match="too few"):
        fit_ridge(identity_pairs(50).subset([0]), source, target)


def test_cosine_by_token_counts_frequencies() -> None:
    pairs = identity_pairs(2)
    pairs = WordPairs(pairs.source, pairs.target, torch.tensor([3.0, 1.0]).double(), pairs.kinds, pairs.whole)
    source = torch.eye(2)
    target = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    same = WordConverter(torch.eye(2), torch.zeros(2))
    assert cosine(same, pairs, source, target) == pytest.approx(0.0)
    assert cosine(same, pairs, source, target, by_token=True) == pytest.approx(0.5)

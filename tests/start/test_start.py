"""The start from words, on soft prompts whose words are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vpgtrans_core.errors import ModelError
from vpgtrans_core.start import words as module
from vpgtrans_core.start.pairs import WordPairs
from vpgtrans_core.start.projector import soft_prompts, spread
from vpgtrans_core.start.words import (
    MOST_SPREADS,
    SHARPNESS,
    SPREADS,
    Direction,
    balance,
    choose_spread,
    read,
    read_captioned,
    regress,
    words_start,
)

WORDS, D, D_S, D_T = 60, 32, 24, 40


class World:
    """A source whose soft prompts are ten times as long as the words that they mean, and lie elsewhere."""

    def __init__(self, seed: int = 0, length: float = 10.0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.source = torch.randn(WORDS, D_S, generator=g) * 0.1 + 0.3
        relation = torch.randn(D_S, D_T, generator=g) / D_S**0.5
        self.target = 0.2 * (self.source - 0.3) @ relation + torch.randn(WORDS, D_T, generator=g) * 0.005
        self.meant = torch.randint(0, WORDS, (100, 8), generator=g)
        # The VPG's outputs are such that this projector makes prompts of the words: p = length * word + offset.
        self.weight = torch.randn(D_S, D, generator=g)
        self.bias = torch.randn(D_S, generator=g) * 5
        words = (self.source - self.source.mean(0))[self.meant]
        noise = torch.randn(100, 8, D, generator=g) * 0.1
        self.outputs = length * words @ torch.linalg.pinv(self.weight).T + noise
        ids = tuple((i,) for i in range(WORDS))
        self.pairs = WordPairs(ids, ids, torch.ones(WORDS).double(), ("same",) * WORDS, torch.ones(WORDS) > 0)

    def start(self, pairs: WordPairs | None = None):
        projector = (self.weight, self.bias)
        pairs = self.pairs if pairs is None else pairs
        return words_start(self.outputs, projector, pairs, self.source, self.target)

    def right(self, projector) -> float:
        """Share of the soft prompts whose nearest target word is the one that was meant."""
        prompts = torch.nn.functional.normalize(soft_prompts(self.outputs, *projector), dim=-1)
        nearest = (prompts @ torch.nn.functional.normalize(self.target, dim=-1).T).argmax(-1)
        return float((nearest == self.meant).float().mean())


def test_the_new_projector_says_the_words() -> None:
    world = World()
    start = world.start()
    assert world.right(start.projector) > 0.9
    assert start.agreement > 0.8
    assert start.projector[0].shape == (D_T, D)
    assert start.projector[1].shape == (D_T,)


def test_shuffled_pairs_say_wrong_words() -> None:
    world = World()
    assert world.right(world.start(world.pairs.shuffled(0)).projector) < 0.1


@pytest.mark.parametrize("length", [1.0, 10.0, 1000.0])
def test_the_length_of_soft_prompts_does_not_matter(length: float) -> None:
    """Scale the source's projector: the start for the target stays the same."""
    world = World()
    expected = world.start().projector
    world.weight, world.bias = world.weight * length, world.bias * length
    found = world.start().projector
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-5)


def test_the_scale_of_the_vpgs_output_does_not_matter() -> None:
    world = World()
    expected = soft_prompts(world.outputs, *world.start().projector)
    world.outputs, world.weight = world.outputs * 50, world.weight / 50
    found = soft_prompts(world.outputs, *world.start().projector)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_words_of_several_tokens() -> None:
    """Split every source word into two tokens whose mean it is: nothing changes."""
    world = World()
    expected = world.start().projector
    half = torch.randn(WORDS, D_S) * 0.1
    world.source = torch.cat([world.source - half, world.source + half])
    pairs = replace(world.pairs, source=tuple((i, WORDS + i) for i in range(WORDS)))
    torch.testing.assert_close(world.start(pairs).projector[0], expected[0], rtol=1e-3, atol=1e-5)


def test_the_teacher_is_its_formula() -> None:
    world = World()
    prompts = soft_prompts(world.outputs, world.weight, world.bias)
    heard = Direction(prompts, world.source, torch.full((WORDS,), 1 / WORDS))
    wanted, words = read(heard, world.target)
    p = prompts[3, 5] - prompts.mean((0, 1))
    a = world.source - world.source.mean(0)
    choice = torch.softmax(SHARPNESS * torch.cosine_similarity(p[None], a), 0)
    torch.testing.assert_close(wanted[3, 5], choice @ world.target, rtol=1e-3, atol=1e-5)
    assert 1 <= words <= WORDS


def test_prompts_choose_one_word_each_and_words_are_chosen_alike() -> None:
    scores = SHARPNESS * (torch.rand(6, 8, 12) - 0.5)
    due = torch.tensor([0.8] * 10 + [0.0] * 2).expand(6, 12)
    choice = (scores + balance(scores, due)[:, None]).softmax(-1)
    torch.testing.assert_close(choice.sum(1), due, rtol=0.2, atol=0.0)  # after ten iterations, not for ever
    torch.testing.assert_close(choice.sum(-1), torch.ones(6, 8))


def test_an_image_is_read_in_the_words_of_its_captions_alone() -> None:
    world = World()
    heard = Direction(soft_prompts(world.outputs, world.weight, world.bias), world.source, torch.full((WORDS,), 0.1))
    said = torch.rand(100, WORDS) < 0.3
    said[3] = False
    said[3, [7, 20, 41]] = True
    wanted, words = read_captioned(heard, world.target, said)
    weights = torch.linalg.lstsq(world.target[[7, 20, 41]].T, wanted[3].T).solution.T  # [Q, 3]
    torch.testing.assert_close(weights @ world.target[[7, 20, 41]], wanted[3], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights.sum(0), torch.full((3,), 8 / 3), rtol=0.2, atol=0.0)
    assert 1 <= words <= WORDS


def test_regression_is_exact_where_it_can_be() -> None:
    x = torch.randn(200, 6)
    weight, bias = torch.randn(4, 6), torch.randn(4)
    found = regress(x, soft_prompts(x, weight, bias), ridge=1e-10)
    torch.testing.assert_close(found[0], weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], bias, rtol=1e-4, atol=1e-5)


def test_fewer_prompts_than_dimensions() -> None:
    weight, bias = regress(torch.randn(5, 64), torch.randn(5, 8))
    assert torch.isfinite(weight).all() and torch.isfinite(bias).all()


def test_spread_by_the_loss() -> None:
    projector, center = (torch.ones(3, 2), torch.ones(3)), torch.tensor([1.0, 0.0])
    best, factor = choose_spread(projector, center, lambda w, b: abs(float(w.sum()) - 12.0))
    assert factor == 2.0
    assert torch.equal(best[0], spread(projector, center, 2.0)[0])
    assert torch.equal(best[1], spread(projector, center, 2.0)[1])


@pytest.mark.parametrize("best", [0.4, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 27.0, 1000.0])
def test_a_spread_beyond_the_last_ones_is_reached_in_a_bounded_number_of_losses(best: float) -> None:
    """The loss is lowest at `best`; what is chosen is the nearest one of those tried on either side."""
    projector, center = (torch.eye(2), torch.zeros(2)), torch.zeros(2)
    tried: list[str] = []
    _, factor = choose_spread(projector, center, lambda w, b: abs(math.log(float(w[0, 0]) / best)), say=tried.append)
    assert len(tried) <= MOST_SPREADS
    if best in SPREADS:
        assert factor == best
        assert len(tried) < len(SPREADS) + 2
    elif best < 100:
        assert abs(math.log(factor / best)) <= math.log(1.5) / 2 + 1e-6
    else:
        assert factor > 2 * max(SPREADS)


@pytest.mark.parametrize(("gain", "chosen"), [(0.005, 8.0), (0.02, 18.0)])
def test_beyond_the_last_spread_a_step_must_gain_enough(gain: float, chosen: float) -> None:
    """The loss falls quickly up to 8, and by `gain` a step from there to 18."""

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        factor = float(weight[0, 0])
        beyond = max(0.0, math.log(min(factor, 18.0) / 8.0, 1.5))
        return 0.97 ** min(factor, 8.0) * (1 - gain) ** beyond

    assert choose_spread((torch.eye(2), torch.zeros(2)), torch.zeros(2), loss)[1] == pytest.approx(chosen)


def test_bad_input_is_refused() -> None:
    world = World()
    with pytest.raises(ModelError, match="no word pairs"):
        world.start(world.pairs.subset([]))
    world.outputs[0, 0, 0] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        world.start()


class Noisy(World):
    """Soft prompts that are so noisy that most are misread; captions that say the words meant, among others."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        g = torch.Generator().manual_seed(seed + 1)
        self.weight = self.weight + 1.0 * torch.randn(self.weight.shape, generator=g)
        self.said = torch.zeros(len(self.meant), WORDS).scatter_(1, self.meant, 1.0)
        self.said.scatter_(1, torch.randint(0, WORDS, (len(self.meant), 6), generator=g), 1.0)

    def start_with(self, said: torch.Tensor | None, pairs: WordPairs | None = None):
        pairs = self.pairs if pairs is None else pairs
        return words_start(self.outputs, (self.weight, self.bias), pairs, self.source, self.target, said).projector


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_captions_correct_the_reading(seed: int) -> None:
    world = Noisy(seed)
    assert world.right(world.start_with(None)) + 0.1 < world.right(world.start_with(world.said))


def test_captions_of_other_images_and_wrong_pairs_teach_nothing() -> None:
    world = Noisy()
    right = world.right(world.start_with(world.said))
    assert world.right(world.start_with(world.said, world.pairs.shuffled(0))) < right / 3
    assert world.right(world.start_with(world.said[torch.randperm(len(world.said))])) < right


def test_captions_without_a_known_word_are_no_captions() -> None:
    world = Noisy()
    alone = world.start_with(None)
    torch.testing.assert_close(world.start_with(torch.zeros(len(world.meant), WORDS)), alone)


def test_an_image_of_which_no_known_word_is_said_is_left_out() -> None:
    world = Noisy()
    world.said[5] = 0
    found = world.start_with(world.said)
    assert torch.isfinite(found[0]).all()
    world.outputs[5] = world.outputs[5].roll(1, 0)  # what is common to all stays the same
    torch.testing.assert_close(world.start_with(world.said)[0], found[0], rtol=1e-3, atol=1e-5)


def test_how_often_a_caption_says_a_word_changes_nothing() -> None:
    world = Noisy()
    repeated = world.said * torch.randint(1, 5, (WORDS,))
    assert torch.equal(world.start_with(repeated)[0], world.start_with(world.said)[0])


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Noisy()
    whole = world.start_with(world.said)
    monkeypatch.setattr(module, "CHUNK", 7)
    torch.testing.assert_close(world.start_with(world.said)[0], whole[0], rtol=1e-3, atol=1e-5)

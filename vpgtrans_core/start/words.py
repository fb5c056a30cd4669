"""Initialise the projector from words: each soft prompt is read as a weighted choice of words of the target.

Figure 5 of the paper shows that a source's soft prompts lie near the words that name the image. So a few images tell
what the new projector should produce: the same words in the target's embeddings. That is a linear regression on the
VPG's outputs, and needs no pass through either LLM.

A single soft prompt is often read wrongly. The image's captions correct this: a word in none of them is hardly meant,
and each word in one of them is meant by some of the prompts. So an image's prompts and words are matched as a whole, by
optimal transport: every prompt chooses one word in total, and all words are chosen equally often.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.start.pairs import Table, WordPairs, word_vectors
from vpgtrans_core.start.projector import Linear, soft_prompts, spread

SHARPNESS = 14.0
"""Factor of the cosines in the softmax over words."""
BALANCINGS = 10
"""Iterations that balance the choice between prompts and words (Sinkhorn)."""
RIDGE = 1e-3
"""Strength of the regression, relative to the mean variance of a direction of the VPG's output."""
SPREADS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Factors by which `choose_spread` tries to scale the soft prompts' distance from their mean: a choice among words is
an average, and lies nearer to the mean than the words do."""
BEYOND, MOST_SPREADS = 1.5, 10
"""Factor between spreads beyond those, and the most that are tried: each is a forward pass over the images judged."""
GAIN = 0.01
"""The share of the loss that a step beyond `SPREADS` must gain: smaller differences on a few images say little."""
CHUNK = 8
"""Images whose soft prompts' choice of words is in memory at once."""


@dataclass(frozen=True)
class WordStart:
    """A projector initialised from words, with measures of its quality.

    Attributes:
        projector: weight ``[D_t, D]`` and bias ``[D_t]``, fp32.
        agreement: mean cosine between the projector's soft prompts and the chosen words.
        words: how many words a soft prompt is read as (the exponential of the choice's entropy, mean).
    """

    projector: Linear
    agreement: float
    words: float


@torch.no_grad()
def words_start(
    outputs: Tensor,
    source_projector: Linear,
    pairs: WordPairs,
    source: Table,
    target: Table,
    said: Tensor | None = None,
    *,
    sharpness: float = SHARPNESS,
    ridge: float = RIDGE,
) -> WordStart:
    """Make a projector for the target out of the source's projector and word pairs.

    Args:
        outputs: the VPG's output ``[n, Q, D]`` of n images; some hundreds at least.
        source_projector: the source's projector, ``[D_s, D]`` and ``[D_s]``.
        pairs: P words of both vocabularies; whole words are best.
        source, target: the LLMs' word embeddings ``[V_s, D_s]``, ``[V_t, D_t]``.
        said: how often each word occurs in a caption of each image, ``[n, P]`` (`pairs.words_said`); None without
            captions. Only whether a word occurs counts, not how often: a word that captions repeat ("a", "the") does
            not mean more. Images without a known word are left out.
        sharpness: factor of the cosines between soft prompt and words.
        ridge: relative strength of the regression.

    Raises:
        ModelError: no word pair, or outputs that are not finite.
    """
    if not len(pairs):
        raise ModelError("there are no word pairs to initialise the projector from", "use --start random")
    if not torch.isfinite(outputs).all():
        raise ModelError("the VPG's outputs are not finite", "the source's weights are damaged; load them again")
    outputs = outputs.float()
    share = (pairs.weights / pairs.weights.sum()).float().to(outputs.device)
    words = word_vectors(target, pairs.target).to(outputs.device)
    heard = Direction(soft_prompts(outputs, *source_projector), word_vectors(source, pairs.source), share)
    if said is not None and (known := (said > 0).any(1)).any():
        outputs, heard = outputs[known], heard.of_images(known)
        wanted, count = read_captioned(heard, words, said[known] > 0, sharpness)
    else:
        wanted, count = read(heard, words, sharpness)
    projector = regress(outputs.flatten(0, 1), wanted.flatten(0, 1), ridge)
    agreement = nn.functional.cosine_similarity(soft_prompts(outputs, *projector), wanted, dim=-1).mean()
    return WordStart(projector, float(agreement), count)


class Direction:
    """Where soft prompts ``[n, Q, D]`` point among words ``[P, D]``: both centred, as unit vectors.

    What all prompts share and what all words share (`share` ``[P]`` is each word's part of the text) says nothing about
    which word is meant; and a soft prompt is about ten times as long as a word.
    """

    def __init__(self, prompts: Tensor, words: Tensor, share: Tensor) -> None:
        words = words.to(prompts.device)
        self.prompts = nn.functional.normalize(prompts - prompts.mean((0, 1)), dim=-1)
        self.words = nn.functional.normalize(words - share @ words, dim=-1)

    def of_images(self, some: Tensor) -> Direction:
        """The same for some of the images, ``[n]`` bool; what is common stays that of all."""
        fewer = copy.copy(self)
        fewer.prompts = self.prompts[some]
        return fewer


def read(heard: Direction, words: Tensor, sharpness: float = SHARPNESS) -> tuple[Tensor, float]:
    """Read each soft prompt p by itself: ``t = sum_w softmax_w(sharpness cos(p, w)) E_t(w)``.

    Args:
        heard: where the prompts point among the source's words.
        words: the target's words ``[P, D_t]``.

    Returns:
        what the target should read, ``[n, Q, D_t]``, and the mean number of words in a choice.
    """
    wanted, entropies = [], []
    for prompts in heard.prompts.split(CHUNK):
        choice = (sharpness * prompts @ heard.words.T).softmax(-1)  # [CHUNK, Q, P]
        wanted.append(choice @ words)
        entropies.append(torch.special.entr(choice).sum(-1))
    return torch.cat(wanted), float(torch.cat(entropies).mean().exp())


def read_captioned(heard: Direction, words: Tensor, said: Tensor, sharpness: float = SHARPNESS) -> tuple[Tensor, float]:
    """`read`, where each image's choice is among the words of its captions, and all of these are chosen equally often.

    The choice is ``softmax_w(sharpness cos(p, w) + v(w))``, where v is what makes the image's prompts together choose
    each of its words as often as any other (`balance`).

    Args:
        said: which words occur in each image's captions, ``[n, P]`` bool; at least one for each image.
    """
    counts = said.sum(1, keepdim=True)
    chosen, index = said.float().topk(int(counts.max()))  # [n, K]: an image's words, filled up with others
    due = heard.prompts.shape[1] * chosen / counts
    wanted, entropies = [], []
    for prompts, own, each in zip(heard.prompts.split(CHUNK), index.split(CHUNK), due.split(CHUNK), strict=True):
        scores = sharpness * prompts @ heard.words[own].mT  # [CHUNK, Q, K]
        choice = (scores + balance(scores, each)[:, None]).softmax(-1)
        wanted.append(choice @ words[own])
        entropies.append(torch.special.entr(choice).sum(-1))
    return torch.cat(wanted), float(torch.cat(entropies).mean().exp())


def balance(scores: Tensor, due: Tensor) -> Tensor:
    """The term ``v`` ``[n, K]`` with which ``softmax_w(scores + v)``, summed over prompts, comes to `due` ``[n, K]``.

    Sinkhorn's iteration on `scores` ``[n, Q, K]``, in logarithms; `due` sums to Q, and what is due nothing gets -inf.
    """
    v = torch.zeros_like(due)
    for _ in range(BALANCINGS):
        u = (scores + v[:, None]).logsumexp(-1, keepdim=True)
        v = due.log() - (scores - u).logsumexp(1)
    return v


def regress(inputs: Tensor, wanted: Tensor, ridge: float = RIDGE) -> Linear:
    """Ridge regression with a free bias: the linear layer from ``[N, D]`` to ``[N, D_t]``, in fp32 from fp64.

    `ridge` is relative to the mean variance of a direction of `inputs`, so that their scale does not matter.
    """
    x, y = inputs.double(), wanted.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    strength = ridge * gram.diagonal().mean().clamp_min(1e-30)
    gram.diagonal().add_(strength)
    weight = torch.linalg.solve(gram, x.T @ y).T
    return weight.float().contiguous(), (mean_y - weight @ mean_x).float()


def choose_spread(
    projector: Linear,
    center: Tensor,
    loss: Callable[[Tensor, Tensor], float],
    spreads: Sequence[float] = SPREADS,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Linear, float]:
    """Scale the soft prompts' distance from their mean by the factor with the lowest loss on a few images.

    From the middle of `spreads` on it goes where the loss falls, and beyond the last one while it falls there by
    `GAIN`, for at most `MOST_SPREADS` losses in all.

    Args:
        projector: weight ``[D_t, D]`` and bias ``[D_t]``.
        center: the VPG's mean output ``[D]``.
        loss: from weight and bias to the target's loss on some images.
        spreads: factors to try first, rising.
        say: is told of each loss.

    Returns:
        the projector with that spread, and the factor.
    """
    losses: dict[float, float] = {}

    def tried(factor: float) -> float:
        if factor not in losses:
            losses[factor] = loss(*spread(projector, center, factor))
            say(f"start from words: spread {factor:.3g}, loss {losses[factor]:.4f}")
        return losses[factor]

    line, place = list(spreads), len(spreads) // 2
    tried(line[place])
    for step in (1, -1):
        while len(losses) < MOST_SPREADS:
            beyond = not 0 <= place + step < len(line)
            factor = line[place] * BEYOND**step if beyond else line[place + step]
            if not tried(factor) < losses[line[place]] * (1 - GAIN * beyond):
                break
            if beyond:
                line.insert(len(line) if step > 0 else 0, factor)
            place = line.index(factor)
    return spread(projector, center, line[place]), line[place]

"""The projector's start from words: each soft prompt read as a soft choice of words, said in the target's.

Figure 5 of the paper shows that a source's soft prompts lie near the words that name the image. So a few images tell
what the new projector should say: the same words in the target's embeddings. That is a linear regression on the VPG's
outputs, and needs no pass through either LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.pairs import Table, WordPairs, word_vectors
from vpgtrans_core.projector import Linear, scaled, soft_prompts

SHARPNESS = 20.0
"""Factor of the cosines in the softmax over words."""
RIDGE = 1e-3
"""Strength of the regression, relative to the mean variance of a direction of the VPG's output."""
SCALES = (0.5, 1.0, 2.0, 4.0)
"""Lengths of the soft prompts that `choose_scale` tries, relative to the words'."""
CHUNK = 256
"""Soft prompts whose choice of words is in memory at once."""


@dataclass(frozen=True)
class WordStart:
    """A start from words: the projector, and what became of it.

    Attributes:
        projector: weight ``[D_t, D]`` and bias ``[D_t]``, fp32.
        agreement: mean cosine between the projector's soft prompts and what the words said.
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
    *,
    sharpness: float = SHARPNESS,
    ridge: float = RIDGE,
) -> WordStart:
    """Make a projector for the target out of the source's projector and word pairs.

    Args:
        outputs: the VPG's output ``[n, Q, D]`` of n images; 64 suffice.
        source_projector: the source's projector, ``[D_s, D]`` and ``[D_s]``.
        pairs: P words of both vocabularies.
        source, target: the LLMs' word embeddings ``[V_s, D_s]``, ``[V_t, D_t]``.
        sharpness: factor of the cosines between soft prompt and words.
        ridge: relative strength of the regression.

    Raises:
        ModelError: no word pair, or outputs that are not finite.
    """
    if not len(pairs):
        raise ModelError("no word pairs to start the projector from", "use --start random")
    if not torch.isfinite(outputs).all():
        raise ModelError("the VPG's outputs are not finite", "the source's weights are damaged; load them again")
    flat = outputs.flatten(0, -2).float()
    prompts = soft_prompts(flat, *source_projector)
    wanted, words = read_and_say(prompts, pairs, source, target, sharpness)
    projector = regress(flat, wanted, ridge)
    agreement = nn.functional.cosine_similarity(soft_prompts(flat, *projector), wanted).mean()
    return WordStart(projector, float(agreement), words)


def read_and_say(
    prompts: Tensor, pairs: WordPairs, source: Table, target: Table, sharpness: float = SHARPNESS
) -> tuple[Tensor, float]:
    """The teacher: ``t = sum_w softmax_w(sharpness cos(p, a_w)) E_t(w)``.

    Prompts are centred by their mean and words by their frequency-weighted mean before the cosine: what all of them
    share (soft prompts are about ten times as long as words) says nothing about which word is meant.

    Args:
        prompts: the source's soft prompts ``[N, D_s]``.

    Returns:
        what the target should read, ``[N, D_t]``, and the mean number of words in a choice.
    """
    words = word_vectors(source, pairs.source).to(prompts.device)
    share = (pairs.weights / pairs.weights.sum()).to(words)
    words = nn.functional.normalize(words - share @ words, dim=-1)
    said = word_vectors(target, pairs.target).to(prompts.device)
    prompts = nn.functional.normalize(prompts - prompts.mean(0), dim=-1)
    wanted, entropy = [], 0.0
    for part in prompts.split(CHUNK):
        choice = (sharpness * part @ words.T).softmax(-1)  # [CHUNK, P]
        wanted.append(choice @ said)
        entropy += float(torch.special.entr(choice).sum())
    return torch.cat(wanted), float(torch.tensor(entropy / len(prompts)).exp())


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


def choose_scale(
    projector: Linear, loss: Callable[[Tensor, Tensor], float], scales: Sequence[float] = SCALES
) -> tuple[Linear, float]:
    """Give the soft prompts the length with the lowest loss on a few images.

    Args:
        projector: weight ``[D_t, D]`` and bias ``[D_t]``.
        loss: from weight and bias to the target's loss on some images.
        scales: factors to try; should hold 1.

    Returns:
        the scaled projector and the factor.
    """
    losses = {scale: loss(*scaled(projector, scale)) for scale in scales}
    best = min(losses, key=lambda scale: losses[scale])
    return scaled(projector, best), best

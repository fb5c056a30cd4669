"""The projector's start from words: each soft prompt read as a soft choice of words, said in the target's.

Figure 5 of the paper shows that a source's soft prompts lie near the words that name the image. So a few images tell
what the new projector should say: the same words in the target's embeddings. That is a linear regression on the VPG's
outputs, and needs no pass through either LLM.

A soft prompt alone is read with many mistakes; two things that are at hand correct them. The image's captions: a word
that nobody says of the image is hardly meant. And the other images: the regression's own answer says what the VPG's
output means elsewhere, so reading and regression are repeated, each with the other's help, as in the alignment models
of translation.
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
UNSAID = 3e-4
"""Weight of a word that no caption of the image says, beside 1 of a word that one says."""
ROUNDS = 3
"""How often soft prompts are read again with the regression's help."""
RIDGE = 1e-3
"""Strength of the regression, relative to the mean variance of a direction of the VPG's output."""
SCALES = (1.0, 2.0, 4.0)
"""Lengths of the soft prompts that `choose_scale` tries, relative to the words'."""
CHUNK = 8
"""Images whose soft prompts' choice of words is in memory at once."""


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
    said: Tensor | None = None,
    *,
    sharpness: float = SHARPNESS,
    ridge: float = RIDGE,
    rounds: int = ROUNDS,
) -> WordStart:
    """Make a projector for the target out of the source's projector and word pairs.

    Args:
        outputs: the VPG's output ``[n, Q, D]`` of n images; some hundreds at least.
        source_projector: the source's projector, ``[D_s, D]`` and ``[D_s]``.
        pairs: P words of both vocabularies; whole words are best.
        source, target: the LLMs' word embeddings ``[V_s, D_s]``, ``[V_t, D_t]``.
        said: how often a caption of each image says each word, ``[n, P]`` (`pairs.words_said`); None where there are
            no captions, and then a soft prompt is read by itself. Whether a word is said counts, not how often: what
            every caption repeats ("a", "the") is not meant the more for it.
        sharpness: factor of the cosines between soft prompt and words.
        ridge: relative strength of the regression.
        rounds: readings with the regression's help after the first; none without captions.

    Raises:
        ModelError: no word pair, or outputs that are not finite.
    """
    if not len(pairs):
        raise ModelError("no word pairs to start the projector from", "use --start random")
    if not torch.isfinite(outputs).all():
        raise ModelError("the VPG's outputs are not finite", "the source's weights are damaged; load them again")
    outputs = outputs.float()
    share = (pairs.weights / pairs.weights.sum()).float().to(outputs.device)
    words = word_vectors(target, pairs.target).to(outputs.device)
    heard = Direction(soft_prompts(outputs, *source_projector), word_vectors(source, pairs.source), share)
    prior = None if said is None else ((said > 0).to(outputs) + UNSAID).log()
    evidence = [heard]
    for _ in range(1 + (rounds if said is not None else 0)):
        wanted, count = read(evidence, words, prior, sharpness)
        projector = regress(outputs.flatten(0, 1), wanted.flatten(0, 1), ridge)
        prompts = soft_prompts(outputs, *projector)
        evidence = [heard, Direction(prompts, words, share)]
    agreement = nn.functional.cosine_similarity(prompts, wanted, dim=-1).mean()
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

    def cosines(self, images: slice) -> Tensor:
        """Cosines ``[m, Q, P]`` of some images' prompts with every word."""
        return self.prompts[images] @ self.words.T


def read(
    evidence: Sequence[Direction], words: Tensor, prior: Tensor | None = None, sharpness: float = SHARPNESS
) -> tuple[Tensor, float]:
    """Read each soft prompt: ``t = sum_w softmax_w(sharpness sum_e cos_e(p, w) + prior(w)) E_t(w)``.

    Args:
        evidence: one or more opinions on where the prompts point.
        words: the target's words ``[P, D_t]``.
        prior: logarithm of how likely each word is for each image, ``[n, P]``.

    Returns:
        what the target should read, ``[n, Q, D_t]``, and the mean number of words in a choice.
    """
    images, queries = evidence[0].prompts.shape[:2]
    wanted, entropy = [], 0.0
    for start in range(0, images, CHUNK):
        part = slice(start, start + CHUNK)
        scores = sharpness * sum((e.cosines(part) for e in evidence[1:]), evidence[0].cosines(part))
        if prior is not None:
            scores = scores + prior[part, None]
        choice = scores.softmax(-1)  # [CHUNK, Q, P]
        wanted.append(choice @ words)
        entropy += float(torch.special.entr(choice).sum())
    return torch.cat(wanted), float(torch.tensor(entropy / (images * queries)).exp())


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

"""Whether the target is a fine-tune of the source's LLM: then the source's projector fits it as it is.

Vicuna and LLaMA, or a fine-tune of one's own: shapes and vocabulary are the same, and training has hardly moved the
word embeddings. What a soft prompt means to one LLM it then means to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "ffn_dim")
"""Fields of a config that a fine-tune leaves alone."""
SHARED = 0.99
"""Share of the smaller vocabulary whose tokens have the same ids in the other: a fine-tune may add some."""
NEAR = 0.2
"""Distance of the word embeddings, relative to their size, up to which they count as nearly the same; those of LLMs
that were trained apart are 1.4 away from each other."""
COMPARED = 4096
"""Words whose embeddings are compared."""
AS_GOOD = 1.02
"""Held-out loss over the source's own up to which a stage that trains the projector alone is left out."""


def embedding_distance(
    configs: Sequence[Any],
    vocabularies: Sequence[dict[str, int]],
    tables: Sequence[Callable[[Tensor], Tensor]],
    sizes: Sequence[int],
) -> float | None:
    """How far apart the word embeddings of two LLMs are that may be of one base; None if the LLMs are not alike.

    Args:
        configs: transformers' configs of the two.
        vocabularies: their tokens' ids.
        tables: give the embeddings ``[N, D]`` of ids ``[N]``.
        sizes: rows of their tables.

    Returns:
        ``|A - B| / |A|`` over `COMPARED` words at most.
    """
    one, other = configs
    if any(getattr(one, name, None) != getattr(other, name, None) for name in SHAPES):
        return None
    shared = vocabularies[0].items() & vocabularies[1].items()
    if len(shared) < SHARED * min(map(len, vocabularies)):
        return None
    known = sorted(number for _, number in shared if number < min(sizes))
    ids = torch.tensor(known[:: max(1, len(known) // COMPARED)], dtype=torch.long)
    if not len(ids):
        return None
    first, second = (table(ids).double() for table in tables)
    return float((first - second).norm() / first.norm().clamp_min(1e-30))

"""What measuring the source's own loss costs, as a share of the run's work. Loads no torch."""

from __future__ import annotations

PASSES = 3
"""Forward passes of the source's LLM over the held-out captions: right, exchanged and no pictures."""
MOST = 0.05
"""The share of the run's work up to which the source's own loss is measured unless the settings say otherwise."""


def source_share(source: float, target: float, held_out: float, captions: float) -> float:
    """The work of measuring the source over that of the training.

    A caption of the training takes a forward pass and the gradient with respect to its soft prompts, as much again.

    Args:
        source, target: parameters of the two LLMs.
        held_out: held-out captions; `captions`: captions that all stages train on.
    """
    return PASSES * source * held_out / (2 * target * captions) if captions else float("inf")


def measures_source(source: float, target: float, share: float) -> bool:
    """Whether the source's own loss is measured unless the settings say otherwise: where it is cheap, and its LLM,
    which is loaded before the target and dropped again, is no larger than the target."""
    return share <= MOST and source <= target

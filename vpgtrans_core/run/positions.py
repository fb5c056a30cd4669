"""Whether the target LLM has positions enough for an image and its text. Loads no torch."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import stage_settings

STATED = ("max_position_embeddings", "n_positions")
"""Where configs state how many positions their model has. T5's ``n_positions`` says only how it was trained."""

WORD = 2
"""Tokens of a conversation at least: one that is read, and one that is learned."""


def positions_of(config: dict[str, Any], encoder_decoder: bool) -> int | None:
    """The positions that an LLM's config states; None where it states none."""
    names = STATED[:1] if encoder_decoder else STATED
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)


def check_positions(spec: RunSpec, num_prompts: int) -> None:
    """Refuse a run whose images and captions do not fit the LLM. Conversations need room for an image and a word: where
    the LLM's positions end before ``--max-tokens``, they are cut and counted (`Limit`), as few may be so long.

    Args:
        num_prompts: soft prompts an image.

    Raises:
        ConfigError: the target has fewer positions than an image and a text of ``--max-tokens`` take.
    """
    positions = positions_of(spec.target.config, spec.target.family.encoder_decoder)
    longest = [_least(spec, stage) for stage in spec.stages] or [spec.settings.max_tokens]
    needed = num_prompts + max(longest)
    if positions is None or needed <= positions:
        return
    room = positions - num_prompts
    raise ConfigError(
        [
            f"{spec.target.name} has {positions} positions; an image of {num_prompts} soft prompts and a text of up to "
            f"{max(longest)} tokens need {needed}"
        ],
        f"--max-tokens {room} would fit" if room > 1 else "use an LLM with more positions",
    )


def _least(spec: RunSpec, stage: Stage) -> int:
    """The tokens that a stage's texts must have room for."""
    return stage_settings(spec.settings, stage).max_tokens if stage.texts == "caption" else WORD

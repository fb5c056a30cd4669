"""Whether the target LLM has positions enough for an image and its text. Loads no torch."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import stage_settings

STATED = ("max_position_embeddings", "n_positions")
"""Where configs state how many positions their model has. T5's ``n_positions`` says only how it was trained."""


def positions_of(config: dict[str, Any], encoder_decoder: bool) -> int | None:
    """The positions that an LLM's config states; None where it states none."""
    names = STATED[:1] if encoder_decoder else STATED
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)


def check_positions(spec: RunSpec, num_prompts: int) -> None:
    """Refuse a run whose images and texts do not fit the LLM.

    Args:
        num_prompts: soft prompts an image.

    Raises:
        ConfigError: the target has fewer positions than an image and a text of ``--max-tokens`` take.
    """
    positions = positions_of(spec.target.config, spec.target.family.encoder_decoder)
    longest = [stage_settings(spec.settings, stage).max_tokens for stage in spec.stages] or [spec.settings.max_tokens]
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

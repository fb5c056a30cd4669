"""Whether the target LLM has positions enough for an image and its text. Loads no torch.

A picture in tiles takes as many positions as its shape needs. A run leaves out the pictures that the LLM has too few
positions for, and counts them among the unusable samples; only an LLM that has too few for one tile is refused.
"""

from __future__ import annotations

from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.run.spec import RunSpec

FEWEST_TOKENS = 2
"""A text has at least a beginning and a label."""
STATED = ("max_position_embeddings", "n_positions")
"""Where configs state how many positions their model has. T5's ``n_positions`` says only how it was trained."""


def positions_of(config: dict[str, Any], encoder_decoder: bool) -> int | None:
    """The positions that an LLM's config states; None where it states none."""
    names = STATED[:1] if encoder_decoder else STATED
    return next((value for name in names if isinstance(value := config.get(name), int) and value > 0), None)


def check_positions(spec: RunSpec, num_prompts: int) -> None:
    """Refuse a run whose images leave no room for a text. Texts that are longer than the room are cut, which is told.

    Args:
        num_prompts: soft prompts an image, or a tile.

    Raises:
        ConfigError: the target has fewer positions than an image and the shortest text take.
    """
    positions = positions_of(spec.target.config, spec.target.family.encoder_decoder)
    needed = num_prompts + FEWEST_TOKENS
    if positions is None or needed <= positions:
        return
    raise ConfigError(
        [
            f"{spec.target.name} has {positions} positions; an image of {num_prompts} soft prompts and a text need "
            f"{needed} or more"
        ],
        "use an LLM with more positions",
    )


def too_large_pictures(spec: RunSpec, most_prompts: int) -> str | None:
    """What to know of pictures that the target has too few positions for; None where every picture fits.

    Args:
        most_prompts: how many positions a picture takes at most.
    """
    positions = positions_of(spec.target.config, spec.target.family.encoder_decoder)
    if positions is None or most_prompts < positions:
        return None
    return (
        f"a picture takes up to {most_prompts} positions, and {spec.target.name} has {positions}: larger pictures are "
        "left out, and counted as unusable (--max-bad-ratio)"
    )

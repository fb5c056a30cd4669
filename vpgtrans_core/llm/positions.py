"""The positions that an LLM has: soft prompts and text share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FEWEST_TOKENS = 2
"""What a text beside the soft prompts needs at least: a beginning and a label."""


def positions_of(config: PreTrainedConfig) -> int | None:
    """How many positions the LLM of a config was made for; None where its config sets no end (T5)."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def check_positions(config: PreTrainedConfig, name: str, num_prompts: int) -> None:
    """Check that an image's soft prompts and a text fit into an LLM. Beyond its positions some LLMs fail, and others
    compute what they never learned.

    Args:
        num_prompts: soft prompts an image.

    Raises:
        ModelError: they do not.
    """
    positions = positions_of(config)
    if positions is not None and num_prompts + FEWEST_TOKENS > positions:
        raise ModelError(
            f"{name} has {positions} positions, too few for the {num_prompts} soft prompts of an image and a text",
            "choose a target with more positions, or a source whose VPG gives fewer soft prompts",
        )

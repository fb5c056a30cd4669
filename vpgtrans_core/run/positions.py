"""Whether the target LLM has positions enough for an image and its text. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vpgtrans_core.errors import ConfigError, DataError
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import stage_settings

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import LLM
    from vpgtrans_core.llm.text import Text

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


def check_room(texts: Iterable[Text], llm: LLM, num_prompts: int, max_tokens: int) -> None:
    """Refuse texts with more images than the LLM has positions for.

    Args:
        num_prompts: soft prompts an image.

    Raises:
        DataError: a text and its images take more positions than there are.
    """
    for text in texts:
        room = llm.room(text, num_prompts)
        if room is not None and room < 0:
            raise DataError(
                f"a text of {text.tokens} tokens with {len(text.image_places)} images of {num_prompts} soft prompts is "
                f"{-room} positions too long for the LLM",
                f"lower --max-tokens (now {max_tokens}), or give samples of fewer images",
            )

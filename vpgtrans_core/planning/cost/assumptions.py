"""What an estimate takes as given, and where each value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.planning.conversations import TOKENS_PER_WORD
from vpgtrans_core.planning.cost.chips import Chip
from vpgtrans_core.planning.cost.comparison import CAPTION_TOKENS

if TYPE_CHECKING:
    from vpgtrans_core.planning.parts import Plan

MFU = 0.35
"""The share of a GPU's peak that training reaches. The paper's four runs imply 0.3 to 0.4 for its own code; one H100
reached 0.34 to 0.51 with OPT and LLaMA, and 0.14 to 0.25 with T5 (benchmarks/README.md)."""


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of the estimate; each can be set."""

    mfu: float = MFU
    caption_tokens: float = CAPTION_TOKENS
    captions_per_image: float = 1.0
    price: float = 0.0
    gpus: int = 1


def assumptions_for(plan: Plan, chip: Chip, **given: float | None) -> Assumptions:
    """Assumptions for a plan: the given values, else those of its data, else the defaults."""
    values: dict[str, Any] = {"price": chip.usd_hour}
    if plan.data is not None:
        if plan.data.words_per_caption is not None:
            values["caption_tokens"] = round(2 + TOKENS_PER_WORD * plan.data.words_per_caption, 1)
        values["captions_per_image"] = plan.data.captions_per_image
    elif plan.settings.captions_per_image:
        values["captions_per_image"] = float(plan.settings.captions_per_image)
    values |= {name: value for name, value in given.items() if value is not None}
    problems = [f"{name}: must be above 0, not {v:g}" for name, v in values.items() if v <= 0 and name != "price"]
    problems += [f"mfu: must be at most 1, not {values['mfu']:g}"] if values.get("mfu", 0) > 1 else []
    problems += [f"price: must not be negative, not {values['price']:g}"] if values["price"] < 0 else []
    if problems:
        raise ConfigError(problems)
    return Assumptions(**values)

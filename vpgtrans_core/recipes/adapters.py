"""The setting ``lora``: of which rank the adapters in the LLM's attention are, and what must hold for them."""

from __future__ import annotations

from collections.abc import Sequence

from vpgtrans_core.recipes.holding import FLOAT8
from vpgtrans_core.recipes.stage import Group, Stage

LORA: Group = "lora"
"""The group of parameters that adapters are, see `Stage.trains`."""
RANK = 8
"""Where a stage trains adapters and the setting is left open."""


def lora_rank(given: int | None, stages: Sequence[Stage]) -> int | None:
    """The rank of a run's adapters; None where no stage trains any."""
    return (given or RANK) if any(LORA in stage.trains for stage in stages) else None


def lora_problems(given: int | None, stages: Sequence[Stage], quantization: str, save: str, spread: bool) -> list[str]:
    """What is wrong with the setting in a run of these stages; `spread`: the LLM is on several devices."""
    rank = lora_rank(given, stages)
    problems = []
    if given is not None and rank is None:
        problems.append(
            "lora: no stage trains it; instruction tuning does (`vpgt tune`, --then), and any stage whose `trains` has "
            "lora"
        )
    if rank is not None and spread:
        problems.append("lora: adapters are trained in an LLM on one device; leave place and shard out")
    if rank is not None and quantization == FLOAT8:
        problems.append("lora: layers in float8 take no adapters; give --quantization 8bit or 4bit, or leave it out")
    elif rank is not None and quantization != "none" and save == "model":
        problems.append(
            f"lora: what is learned beside an LLM in {quantization} cannot be merged into the unquantised one that the "
            "whole model holds; --save vpg keeps it as an adapter"
        )
    return problems

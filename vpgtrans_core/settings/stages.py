"""What a recipe's settings and stages become with a run's own laid over them."""

from __future__ import annotations

import dataclasses
from typing import Any

from vpgtrans_core.recipes.adapters import LORA
from vpgtrans_core.recipes.items import stage_with, whole_stage
from vpgtrans_core.recipes.lists import LISTS, LR_FACTOR, PAPER, THEN, TUNING, Recipe
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.settings.settings import Settings


def fill(settings: Settings, recipe: Recipe, *, batch_size: int | None = None) -> Settings:
    """Fill open settings with the values of `recipe`; `batch_size` is used where it has none, and may stay open."""
    values = {"batch_size": batch_size, "stages": _listed(settings), **recipe.settings}
    if settings.stage3_epochs is not None:
        values["stage3_steps"] = None
    if settings.stage2_lr is not None:
        values["stage1_lr"] = LR_FACTOR * settings.stage2_lr
    start = "random" if settings.method != "vpgtrans" else settings.start
    values["stage1_optimizer"] = "muon" if start == "words" else "adamw"
    for number, stage in recipe.stages.items():
        for name, value in vars(stage).items():
            values.setdefault(f"stage{number}_{name}", value)
    open_values = {k: v for k, v in values.items() if getattr(settings, k, k) is None}
    return dataclasses.replace(settings, **open_values, start=start)


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """The run's stages, complete: the recipe's with the settings ``stage1_...`` and ``stage2_...`` laid over them, and
    whatever ``stages`` changes or adds.

    A stage keeps the number that it has in the recipe; a new one is numbered after the one before it.
    """
    own = _recipe_stages(settings)
    stages: list[Stage] = []
    for item in _listed(settings) if settings.stages is None else settings.stages:
        after = stages[-1].number if stages else 0
        stages.append(whole_stage(item, own, after + 1))
    return tuple(stages)


def _listed(settings: Settings) -> tuple[int, ...]:
    """The stages of the method, and the one that ``then`` adds."""
    return (*LISTS[settings.method], *((TUNING,) if settings.then else ()))


def stage_settings(settings: Settings, stage: Stage) -> Settings:
    """The settings as they are in one stage: its own data, batch and texts in place of the run's."""
    names = ("batch_size", "captions_per_image", "max_tokens", "template")
    own: dict[str, Any] = {name: value for name in names if (value := getattr(stage, name)) is not None}
    if stage.instructions and settings.clean is None:
        own["clean"] = False  # answers are learned as written
    if stage.data:
        own |= {"data": stage.data, "format": stage.format, "ratios": stage.ratios}
    return dataclasses.replace(settings, **own)


def _recipe_stages(settings: Settings) -> dict[int, Stage]:
    """The recipe's stages by number, with the values of the settings that are theirs."""
    own = {}
    for number, stage in PAPER.stages.items():
        values = {f.name: getattr(settings, f"stage{number}_{f.name}", None) for f in dataclasses.fields(Stage)}
        own[number] = stage_with(stage, {name: value for name, value in values.items() if value is not None})
    own[1] = dataclasses.replace(own[1], early_stop=settings.early_stop)
    if settings.then:
        own[TUNING] = dataclasses.replace(own[TUNING], data=settings.then_data, **THEN[settings.then])
    if settings.lora:
        own[TUNING] = dataclasses.replace(own[TUNING], trains=(*own[TUNING].trains, LORA))
    if settings.template != "auto":
        own[TUNING] = dataclasses.replace(own[TUNING], template=None)
    return own

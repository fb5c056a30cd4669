"""`Settings` from plain values: every value in its bounds, and what must hold between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.recipes.adapters import lora_problems
from vpgtrans_core.recipes.captions import caption_problems
from vpgtrans_core.recipes.holding import holding_problems
from vpgtrans_core.recipes.items import recipe_number, stage_items
from vpgtrans_core.recipes.lists import PAPER, TUNING
from vpgtrans_core.recipes.stage import data_problems
from vpgtrans_core.settings.settings import ALIASES, Settings
from vpgtrans_core.settings.stages import fill, stages_of
from vpgtrans_core.templates.choose import template_problem
from vpgtrans_core.validation import check


def build(values: Mapping[str, Any]) -> Settings:
    """Make `Settings` from plain values; report every unknown key and every wrong value at once.

    Raises:
        ConfigError: listing all problems.
    """
    named = [(ALIASES.get(str(key).replace("-", "_"), str(key).replace("-", "_")), key) for key in values]
    twice = [f"{name}: given twice, also as {key!r}" for n, (name, key) in enumerate(named) if name in dict(named[:n])]
    plain = {name: values[key] for name, key in named}
    stages, problems = stage_items(plain.pop("stages", None))
    good, wrong = check(Settings, plain)
    problems = twice + wrong + problems
    if not problems:
        settings = Settings(**good, stages=stages)
        problems = [problem for relation in RELATIONS for problem in relation(settings)]
    if problems:
        raise ConfigError(problems, "`vpgt transfer --help` lists every setting")
    return settings


def tuning_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``vpgt tune``, where those of stage 3 are called by their own names: ``lr`` is ``stage3_lr``."""
    names = {f.name for f in dataclasses.fields(Settings)}
    plain = {str(name).replace("-", "_"): value for name, value in values.items()}
    staged = {f"stage{TUNING}_{name}" if f"stage{TUNING}_{name}" in names else name: v for name, v in plain.items()}
    return {**staged, "method": "tune"}


def _texts_fit(settings: Settings) -> list[str]:
    """A shell's variable that is not set gives an empty text, and no path holds a zero byte."""
    texts = {name: value for name, value in vars(settings).items() if isinstance(value, str)}
    listed = {name: getattr(settings, name) for name in ("data", "then_data")}
    problems = [f"{name}: must not be empty" for name in ("out", "cache", "val_data") if texts.get(name) == ""]
    problems += [f"{name}: must not be empty" for name, paths in listed.items() if "" in paths]
    every = [*texts.items(), *((name, path) for name, paths in listed.items() for path in paths)]
    return problems + [f"{name}: must not hold a zero byte" for name, text in every if "\0" in text]


def _data_fits(settings: Settings) -> list[str]:
    return data_problems(settings.data, settings.format, settings.ratios)


def _stages_fit(settings: Settings) -> list[str]:
    stages = stages_of(fill(settings, PAPER))
    problems = [problem for stage in stages for problem in stage.problems()]
    names = [stage.name for stage in stages]
    problems += [
        f"stages: {name!r} is given more than once" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    own = [names.index(stage.name) for stage in PAPER.stages.values() if stage.name in names]
    if own != sorted(own):
        problems.append("stages: warm-up (1) comes before fine-tuning (2), and instruction tuning (3) after both")
    return problems


def _then_fits(settings: Settings) -> list[str]:
    """What must hold for instruction tuning as a further stage, and as a method."""
    problems = []
    if settings.then_data and not settings.then:
        problems.append("then_data: is the data of the stage that --then adds, which is not given")
    if settings.method == "tune" and (settings.target or settings.then):
        problems.append("method: tune is the method of `vpgt tune MODEL`, which has no other LLM and no further stage")
    if settings.then and settings.stages is not None and TUNING not in map(recipe_number, settings.stages):
        problems.append("then: `stages` leaves its stage out; add 3 to them")
    return problems


def _holding_fits(settings: Settings) -> list[str]:
    return holding_problems(
        compile=settings.compile,
        checkpoint_activations=settings.checkpoint_activations,
        quantization=settings.quantization,
        place=settings.place,
        device=settings.device,
        shard=settings.shard,
    )


def _resume_fits(settings: Settings) -> list[str]:
    return ["resume and overwrite cannot be combined"] if settings.resume and settings.overwrite else []


def _captions_fit(settings: Settings) -> list[str]:
    return caption_problems(settings.captions, settings.caption_share)


def _lora_fits(settings: Settings) -> list[str]:
    stages = stages_of(fill(settings, PAPER))
    spread = bool(settings.place or settings.shard)
    return lora_problems(settings.lora, stages, settings.quantization, settings.save, spread)


def _template_fits(settings: Settings) -> list[str]:
    names = [settings.template, *(stage.template for stage in stages_of(fill(settings, PAPER)))]
    return [f"template: {problem}" for name in dict.fromkeys(names) if name and (problem := template_problem(name))]


RELATIONS = (
    _texts_fit, _data_fits, _captions_fit, _template_fits, _then_fits, _stages_fit, _lora_fits, _holding_fits,
    _resume_fits,
)  # fmt: skip
"""What must hold between settings; each returns its problems."""

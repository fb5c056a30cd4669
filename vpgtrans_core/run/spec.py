"""The specification of a run: every name resolved, every open setting filled. Loads no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.models.refusals import refuse_apart
from vpgtrans_core.models.resolve import check_names, resolve_source, resolve_target
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.recipes.lists import RECIPES
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings, fill, stage_settings, stages_of


@dataclass(frozen=True)
class RunSpec:
    """The specification of a run, before weights or data are loaded.

    Attributes:
        settings: every setting, the recipe's values filled in.
        stages: in the order of training.
        source_data: ``"module:function"`` that lists the captioned images that come with the source; ``""`` for none.
        batch_rule: where the batch size comes from; the size is open until the data is known, see `with_batch`.
    """

    settings: Settings
    stages: tuple[Stage, ...]
    source: ResolvedSource
    target: ResolvedLLM
    source_data: str
    registry: Registry
    batch_rule: str = ""

    @property
    def has_data(self) -> bool:
        """Whether every stage has data to train on."""
        given = [self.settings, *(stage_settings(self.settings, stage) for stage in self.stages)]
        return bool(self.source_data) or all(settings.data for settings in given[min(len(self.stages), 1) :])

    def require_data(self) -> None:
        """Raises:
        DataError: a stage has no data.
        """
        if self.settings.then and not self.settings.then_data:
            raise DataError(
                f"no data is given for {self.settings.then}", "give conversations or descriptions: --then-data PATH"
            )
        if not self.has_data:
            raise DataError(
                "no training data is given", "give images with captions: --data PATH; the README lists the formats"
            )

    def require_teacher(self) -> None:
        """Raises:
        ConfigError: the source is asked for captions, but has no language model.
        """
        if self.settings.captions and self.source.llm is None:
            raise ConfigError(
                [f"captions: {self.source.name} is a VPG without a language model: it cannot describe images"],
                "give --from a whole VL-LLM, or data with captions",
            )


def _own_llm(source: ResolvedSource) -> ResolvedLLM:
    """The LLM of a model that is tuned as it is.

    Raises:
        ModelError: it has none.
    """
    if source.llm is None:
        raise ModelError(
            f"{source.name} is a VPG without language model: there is nothing to tune",
            "transfer it to an LLM first: `vpgt transfer --from ... --to ...`",
        )
    refuse_apart(source.name, source.llm.adapter, "is not tuned further like this")
    return source.llm


def _check_bos(settings: Settings, target: ResolvedLLM) -> None:
    """Raises:
    ConfigError: the place of BOS is asked for where it cannot be chosen. Records of resumed runs may say it.
    """
    if settings.resume or settings.bos == "auto":
        return
    if target.family.encoder_decoder:
        why = f"bos: {target.name} reads the image in its encoder, whose texts begin with no BOS"
        raise ConfigError([why], "leave --bos out")
    if settings.bos != target.family.bos:  # a model that is tuned
        why = f"bos: {target.name} was trained with BOS {target.family.bos}, not {settings.bos}"
        raise ConfigError([why], "leave --bos out")


def run_spec(settings: Settings, registry: Registry, *, weights: bool = True) -> RunSpec:
    """Resolve the names in `settings` and fill the settings that are open; the batch size may stay so.

    A source that comes with vpgt may name its own recipe and data; they apply to targets that come with vpgt.

    Args:
        weights: whether the models' weights are needed, or only their configs.

    Raises:
        VpgtError: a model is missing or cannot be used.
    """
    tunes = settings.method == "tune"
    check_names([settings.source] if tunes else [settings.source, settings.target], registry, settings)
    source = resolve_source(settings.source, registry, settings, weights=weights)
    target = _own_llm(source) if tunes else resolve_target(settings.target, registry, settings, weights=weights)
    _check_bos(settings, target)
    card = source.card if source.bundled and target.bundled else None
    recipe = RECIPES[card.recipe if card else "paper"]
    filled = fill(settings, recipe)
    if not target.family.encoder_decoder:
        filled = dataclasses.replace(filled, bos=target.family.bos)
    rule = "as given" if settings.batch_size else f"the recipe's ({card.recipe})" if card else ""
    return RunSpec(filled, stages_of(filled), source, target, card.data if card else "", registry, rule)

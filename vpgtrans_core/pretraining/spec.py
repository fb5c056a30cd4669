"""The specification of a pre-training: the family, the sizes, the vision tower, every open setting filled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.cards import VPGFamily, load
from vpgtrans_core.data.data import Data
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.models import refusals
from vpgtrans_core.models.places import Place, Places, is_path
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.settings.initial import InitSettings

NAME = "pre-training"
BATCH, HELD_OUT = 128, 500
"""Images a step and most held-out images where the settings say nothing."""
STEPS, MOST_EPOCHS = 4000, 100
"""Steps where the settings say nothing: so many, but no more than so many epochs have, and no fewer than one has."""
LR, LR_WIDTH, MOST_LR = 1e-4, 768, 1e-3
"""BLIP-2's peak learning rate at the width of its Q-Former; narrower ones take a higher one."""
WARMUP_SHARE = 0.1
LOOKS = 20
"""Measurements on the held-out images in a whole training, unless the settings say otherwise."""


@dataclass(frozen=True)
class InitSpec:
    """A pre-training, before weights or data are loaded.

    Attributes:
        initial, settings: every setting; those that the data decides may be open, see `with_data`.
        family: whose VPG it is.
        config: the ``config.json`` of the VPG's folder.
        vision: where the vision tower is; None for one from nothing.
        stage: the training, once the data is known.
    """

    initial: InitSettings
    settings: Settings
    registry: Registry
    family: VPGFamily
    config: dict[str, Any]
    vision: Place | None = None
    stage: Stage | None = None

    @property
    def steps(self) -> int:
        """Of the training; 0 before the data is known."""
        return self.stage.steps or 0 if self.stage else 0

    @property
    def pretraining(self) -> Any:
        """The family's subclass of `Pretraining`."""
        return load(self.family.pretraining)


def init_spec(initial: InitSettings, settings: Settings, registry: Registry, *, weights: bool = True) -> InitSpec:
    """Resolve the names, and ask the family for the VPG's config.

    Args:
        weights: whether the vision tower's weights are needed, or only its config.

    Raises:
        VpgtError: no data, an unknown name, sizes that do not go together, or a model without a vision tower.
    """
    if not settings.data:
        raise DataError(
            "no training data is given", "give images with captions: --data PATH; docs/data.md lists formats"
        )
    family = _family(initial.family, registry)
    vision = _vision(initial.vision, registry, settings, weights) if initial.vision else None
    like = resolve_source(initial.like, registry, settings, weights=False).config if initial.like else None
    config = load(family.pretraining).configure(initial.sizes, vision.config if vision else None, like)
    held_out = HELD_OUT if settings.val_images is None else settings.val_images
    augment = vision is None if settings.augment is None else settings.augment
    filled = dataclasses.replace(settings, val_images=held_out, augment=augment)
    return InitSpec(initial, filled, registry, family, config, vision)


def with_data(spec: InitSpec, data: Data, width: int) -> InitSpec:
    """The same with the batch, the length and the learning rates that are open.

    Args:
        width: of the VPG's output, D.
    """
    initial = spec.initial
    batch = min(initial.batch_size or BATCH, data.images)
    if batch < 2:
        raise DataError("one image cannot be told from others", "give more images")
    epoch = max(1, data.images // batch)
    usual = max(epoch, min(STEPS, MOST_EPOCHS * epoch))
    steps = initial.steps or (max(1, round(initial.epochs * epoch)) if initial.epochs else usual)
    lr = initial.lr or min(MOST_LR, LR * LR_WIDTH / width)
    stage = Stage(
        number=1,
        name=NAME,
        trains=("vpg",),
        steps=steps,
        lr=lr,
        min_lr=lr / 10 if initial.min_lr is None else initial.min_lr,
        lr_warmup_steps=initial.lr_warmup_steps,
        lr_warmup_share=WARMUP_SHARE,
    )
    looks = spec.settings.validate_every or max(1, steps // LOOKS)
    settings = dataclasses.replace(spec.settings, batch_size=batch, validate_every=looks)
    return dataclasses.replace(spec, settings=settings, stage=stage)


def _family(name: str | None, registry: Registry) -> VPGFamily:
    """The family called `name`, or the one that can be made from nothing.

    Raises:
        ConfigError: it cannot, or several can.
    """
    able = [family for family in registry.vpg_families() if family.pretraining]
    names = ", ".join(family.name for family in able) or "none"
    if name is None and len(able) == 1:
        return able[0]
    if name is None:
        raise ConfigError([f"family: several can be made from nothing: {names}"], "give one with --family")
    if (family := registry.vpg_family(name)) not in able:
        raise ConfigError([f"family: {name} cannot be made from nothing"], f"these can: {names}")
    return family


def _vision(name: str, registry: Registry, settings: Settings, weights: bool) -> Place:
    """Where the model with the vision tower is: a folder, a hub id, or the alias of a VL-LLM."""
    _, rest = registry.split_plugin(name)
    known = registry.source(name) if registry.knows_source(name) and not is_path(rest) else None
    if known is None and registry.knows_llm(name):
        raise ModelError(f"{name} is a language model: it has no vision tower", "give a model that sees")
    place = Places(registry, settings, weights).of(name, rest, known)
    if not settings.trust_remote_code:
        refusals.refuse_code(name, place.config, registry)
    return place

"""Fill a cache without a language model, with what a source's VPG computes from captioned images."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vpgtrans_core.cache.cached_images import CachedImages
from vpgtrans_core.cache.key import Kind, cache_root
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.data.images import Augmentation, normalize
from vpgtrans_core.data.loader import Loader, ReadOptions, StepReader
from vpgtrans_core.data.order import Draw, InOrder
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.llm.text import Text, TextEncoder
from vpgtrans_core.machine import Machine
from vpgtrans_core.settings import Settings
from vpgtrans_core.train.stage import Progress
from vpgtrans_core.vpg.adapter import VPG

BATCH = 32
"""Images per batch."""


class NoText(TextEncoder):
    """Encodes no captions: the cache does not need them."""

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        return Text((), ())


@dataclass(frozen=True)
class OneView:
    """All images in order, as on their visit number `view`."""

    images: InOrder
    view: int

    def step(self, step: int) -> list[Draw]:
        return [draw._replace(visit=self.view) for draw in self.images.step(step)]


def build_cache(vpg: VPG, settings: Settings, machine: Machine, kind: Kind, progress: Progress) -> dict[str, Any]:
    """Compute what is not there yet of all images of the settings' data: the plain view (held-out images are seen in
    it) and, with augmentation, ``settings.views`` others. Returns the cache's `info` and what was computed.

    Raises:
        ConfigError: it would pass ``cache_gb`` or the disk. DataError: see `open_data`.
    """
    from vpgtrans_core.run.feed import open_training_data

    data = open_training_data(settings)
    images = sum(len(listing) for part in _parts(data) for listing in part.listings)
    caches = Caches()
    caches.say = progress.message
    cache = caches.open(vpg, kind, machine.dtype, settings, images=images)
    if cache is None:
        why = str(caches.plans[kind]) if kind in caches.plans else f"{cache_root(settings.cache)} cannot be written"
        raise ConfigError([why], "raise --cache-gb, choose another --cache, or take fewer images")
    computed = 0
    for part in _parts(data):
        rows = InOrder([np.arange(len(listing)) for listing in part.listings], BATCH)
        for augmentation, view in _views(settings):
            options = ReadOptions(
                vpg.preprocessing, seed=settings.seed, augmentation=augmentation, views=settings.views
            )
            reader = StepReader(part, NoText(), options, CachedImages(cache, EntryNames(part, options)))
            loader = Loader(reader, OneView(rows, view), start=0, stop=len(rows), workers=settings.workers)
            progress.stage("plain view" if augmentation is None else f"view {view + 1}", len(rows))
            for step in loader:
                computed += _compute(vpg, step, reader, machine)
                progress.step(1)
    cache.flush()
    return {**cache.info(), "computed": computed}


@torch.no_grad()
def _compute(vpg: VPG, step: Any, reader: StepReader, machine: Machine) -> int:
    """Compute and keep one step's images, unless the loader found all of them; return how many were computed."""
    assert isinstance(reader.features, CachedImages)
    if step.visual_kind != "pixels" or not len(step):
        return 0
    pixels = normalize(step.visual.to(machine.device), vpg.preprocessing)
    with torch.autocast(machine.device.type, dtype=machine.autocast, enabled=machine.autocast is not None):
        features = vpg.features(pixels)
        kept = features if reader.features.kind == "features" else vpg.prompts(features)
    views = [(draw.source, draw.row, view) for draw, view in zip(step.draws, step.views, strict=True)]
    reader.features.keep(views, kept, reader.features.kind)
    return len(step)


def _views(settings: Settings) -> list[tuple[Augmentation | None, int]]:
    """The plain view, and the augmented ones that training will ask for."""
    if not settings.augment:
        return [(None, 0)]
    return [(None, 0), *((Augmentation(crop_min=settings.crop_min), view) for view in range(settings.views))]


def _parts(data: Any) -> list[Any]:
    return [data.train, *([data.own_held_out] if data.own_held_out else [])]

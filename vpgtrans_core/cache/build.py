"""Fill a cache without a language model, with what a source's VPG computes from captioned images."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vpgtrans_core.cache.cached_images import CachedImages
from vpgtrans_core.cache.key import Kind
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.bad import BadLog
from vpgtrans_core.data.conversation import Caption, Conversation, ImageMark, Span
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.images import Augmentation, normalize
from vpgtrans_core.data.loader import Loader, ReadOptions, StepReader
from vpgtrans_core.data.order import Draw, InOrder
from vpgtrans_core.data.tiles import changed
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.files import DiskFull, cache_root, free_bytes, is_full
from vpgtrans_core.machine import Machine
from vpgtrans_core.settings import Settings
from vpgtrans_core.train.stage import Progress
from vpgtrans_core.vpg.adapter import VPG

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import TrainingData

BATCH = 32
"""Images per batch."""


class NoText:
    """The loader's `Encoder` where texts are of no use."""

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> None:
        return None

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> None:
        return None

    def words(self, text: str) -> tuple[int, ...]:
        return ()


class NoTemplate:
    """The loader's `Template` where texts are of no use."""

    def spans(self, conversation: Conversation) -> list[Span | ImageMark]:
        return []


@dataclass(frozen=True)
class OneView:
    """All images in order, as on their visit number `view`."""

    images: InOrder
    view: int

    def step(self, step: int) -> list[Draw]:
        return [draw._replace(visit=self.view) for draw in self.images.step(step)]


def build_cache(
    vpg: VPG, data: TrainingData, settings: Settings, machine: Machine, kind: Kind, progress: Progress
) -> dict[str, Any]:
    """Compute what is not there yet of the images that `data` takes: the plain view (held-out images are seen in it)
    and, with augmentation, ``settings.views`` others. Returns the cache's `info`, what was computed, and the bad
    samples by kind.

    Raises:
        ConfigError: it would pass ``cache_gb`` or the disk. DiskFull: the disk refused it.
    """
    images = sum(part.images + part.held_out_images for part in _parts(data))
    caches = data.caches
    caches.say = progress.message
    cache = caches.open(vpg, kind, machine.dtype, settings, images=images)
    if cache is None:
        plan = caches.plans[kind]
        why = str(plan) if plan.refusal else f"{cache_root(settings.cache)} cannot be written"
        raise ConfigError([why], "raise --cache-gb, choose another --cache, or take fewer images")
    computed, skipped = 0, Counter[str]()
    for part in _parts(data):
        every = [np.sort(np.concatenate(both)) for both in zip(part.train, part.held_out, strict=True)]
        rows, met = InOrder(every, BATCH), [BadLog() for _ in part.listings]
        only_plain = part is data.own_held_out
        for augmentation, view in _views(settings)[: 1 if only_plain else None]:
            options = ReadOptions(
                vpg.preprocessing,
                texts="instruction",  # of samples with several images too; nothing is made of them
                template=NoTemplate(),
                seed=settings.seed,
                augmentation=augmentation,
                views=settings.views,
            )
            reader = StepReader(part, NoText(), options, CachedImages(cache, EntryNames(part, options)))
            loader = Loader(reader, OneView(rows, view), start=0, stop=len(rows), workers=settings.workers)
            progress.stage("plain view" if augmentation is None else f"view {view + 1}", len(rows))
            for step in loader:
                computed += _compute(vpg, step, reader, machine)
                _stop_when_full(cache, caches.plans[kind].bytes)
                progress.step(1)
            for log, more in zip(met, loader.bad, strict=True):
                log.add(more)
        skipped += part.skipped(met)
    cache.flush()
    _stop_when_full(cache, caches.plans[kind].bytes)
    return {**cache.info(), "computed": computed, "skipped": dict(skipped)}


def _stop_when_full(cache: FeatureCache, needed: int) -> None:
    """A run goes on without its cache; to fill one is all that is wanted here."""
    if cache.failure is None:
        return
    full = "the disk is full: " * is_full(cache.failure)
    raise DiskFull(
        f"{full}{cache.folder} cannot be written: {cache.failure}; all of it needs {needed:,} bytes, "
        f"{free_bytes(cache.folder):,} are free, and {len(cache)} entries of {cache.key.entry_bytes:,} bytes are kept",
        "make room, or choose another folder with --cache; existing entries are not computed again",
    )


@torch.no_grad()
def _compute(vpg: VPG, step: Any, reader: StepReader, machine: Machine) -> int:
    """Compute and keep one step's images, unless the loader found all of them; return how many were computed."""
    assert isinstance(reader.features, CachedImages)
    if step.visual_kind != "pixels" or not len(step):
        return 0
    pixels = changed(step.visual.to(machine.device), lambda values: normalize(values, vpg.preprocessing))
    with torch.autocast(machine.device.type, dtype=machine.autocast, enabled=machine.autocast is not None):
        features = changed(pixels, vpg.features)
        kept = features if reader.features.kind == "features" else changed(features, vpg.prompts)
    reader.features.keep(step.image_views, kept, reader.features.kind)
    return len(step.image_views)


def _views(settings: Settings) -> list[tuple[Augmentation | None, int]]:
    """The plain view, and the augmented ones that training will ask for."""
    if not settings.augment:
        return [(None, 0)]
    return [(None, 0), *((Augmentation(crop_min=settings.crop_min), view) for view in range(settings.views))]


def _parts(data: TrainingData) -> list[Data]:
    return [data.train, *([data.own_held_out] if data.own_held_out else [])]

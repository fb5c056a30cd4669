"""From data to the batches of a pre-training: one caption an image, a vision tower's features from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vpgtrans_core.cache.cached_images import CachedImages
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.images import Augmentation, normalize
from vpgtrans_core.data.loader import Loader, ReadOptions, StepData, StepReader
from vpgtrans_core.data.sample import View, VisualKind
from vpgtrans_core.data.tiles import Tiles
from vpgtrans_core.errors import ModelError
from vpgtrans_core.machine import Machine
from vpgtrans_core.pretraining.words import Words, rows
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.settings import Settings
from vpgtrans_core.vpg.pretraining import Pretraining

HELD_OUT_BATCH = 64
"""Held-out images computed together."""


@dataclass
class Pairs:
    """Images and a text about each.

    Attributes:
        visual: pixels ``[B, 3, H, W]`` or features ``[B, N, C]``; `kind` says which.
        ids: tokens ``[B, T]``.
        views: which image and view each is, for a cache.
    """

    visual: Tensor
    kind: VisualKind
    ids: Tensor
    views: Sequence[View] = ()

    def __len__(self) -> int:
        return len(self.ids)


class PairFeed:
    """The batches of a pre-training.

    Args:
        settings: filled, see `with_data`.
    """

    def __init__(
        self, data: TrainingData, settings: Settings, model: Pretraining, words: Words, machine: Machine
    ) -> None:
        self.all = data
        self.settings = settings
        self.model = model
        self.words = words
        self.machine = machine
        self.order = data.train.order(settings.seed, settings.batch_size or 1, stream=1)
        self._held_out: list[Pairs] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps(1)

    @property
    def held_out_steps(self) -> float:
        """How many steps have as many images as are held out."""
        return self.all.held_out_images / self.order.images_per_step

    def batches(self, total: int) -> Callable[[int], Iterator[tuple[Pairs, float]]]:
        """Return what gives the batches from a first step to step `total`, each with the seconds waited for it."""

        def generate(first: int) -> Iterator[tuple[Pairs, float]]:
            loader = self._loader(self._reader(), self.order, first, total)
            for log, before in zip(loader.bad, self.all.met, strict=True):
                log.load_state_dict(before.state_dict())
            self.all.met[:] = loader.bad
            for data in loader:
                yield _pairs(data), data.waited

        return generate

    def held_out(self) -> list[Pairs]:
        """The held-out images' batches; the features of a given tower are computed once."""
        if self._held_out is None:
            order = self.all.held_out_order(HELD_OUT_BATCH) if self.all.held_out_images else ()
            loader = self._loader(self._reader(held_out=True), order, 0, len(order))
            self._held_out = [self.frozen(_pairs(data)) for data in loader if len(data) > 1]
        return self._held_out

    @torch.no_grad()
    def frozen(self, pairs: Pairs) -> Pairs:
        """The same with the features of the vision tower, where it is not trained; they go to the cache."""
        if self.model.trains_vision or pairs.kind != "pixels":
            return pairs
        vpg = self.model.vpg
        features = vpg.features(normalize(pairs.visual.to(self.model.device), vpg.preprocessing))
        if self.cache is not None and pairs.views:
            reader = self._reader()
            assert isinstance(reader.features, CachedImages)
            kept = reader.features.keep(pairs.views, features, "features")
            features = kept if isinstance(kept, Tensor) else features
        return Pairs(features, "features", pairs.ids, pairs.views)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the feed."""
        self.all.caches.flush()
        return {"bad": [log.state_dict() for log in self.all.met]}

    def restore(self, state: dict[str, Any]) -> None:
        for log, saved in zip(self.all.met, state.get("bad", []), strict=False):
            log.load_state_dict(saved)

    @cached_property
    def cache(self) -> FeatureCache | None:
        """What is kept on disk of what a given tower computes."""
        if self.model.trains_vision:
            return None
        images = self.all.train.images + self.all.held_out_images
        return self.all.caches.open(self.model.vpg, "features", torch.float32, self.settings, images=images)

    def _reader(self, *, held_out: bool = False) -> StepReader:
        settings = self.settings
        options = ReadOptions(
            preprocessing=self.model.vpg.preprocessing,
            max_tokens=settings.max_tokens,
            seed=0 if held_out else settings.seed,  # every run is measured on the same texts
            captions_per_image=1,
            augmentation=Augmentation(crop_min=settings.crop_min) if settings.augment and not held_out else None,
        )
        data = self.all.held_out if held_out else self.all.train
        cached = self.cache if options.augmentation is None else None
        features = CachedImages(cached, EntryNames(data, options)) if cached is not None else None
        return StepReader(data, self.words, options, features)

    def _loader(self, reader: StepReader, order: Any, start: int, stop: int) -> Loader:
        pin = self.machine.device.type == "cuda"
        return Loader(reader, order, start=start, stop=stop, workers=self.settings.workers, pin=pin)


def _pairs(data: StepData) -> Pairs:
    if isinstance(data.visual, Tiles):
        raise ModelError("a family that cuts its images into tiles cannot be pre-trained", "choose another --family")
    return Pairs(data.visual, data.visual_kind, rows([texts[0] for texts in data.texts]), data.image_views)

"""Samples captions of images from a whole VL-LLM, and keeps what its VPG computed for the training that follows."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vpgtrans_core.cache.build import NoTemplate, NoText
from vpgtrans_core.cache.cached_images import CachedImages
from vpgtrans_core.cache.key import Kind
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.images import normalize
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.loader import Loader, ReadOptions, StepData, StepReader
from vpgtrans_core.data.order import Draw, InOrder
from vpgtrans_core.data.tiles import changed
from vpgtrans_core.llm.shown import Prompts, repeated
from vpgtrans_core.machine import Machine
from vpgtrans_core.settings import Settings, stages_of
from vpgtrans_core.teaching.content import sha_of
from vpgtrans_core.vlm.model import VLModel

BATCH = 32
"""Images that are described together."""
ROOM = 2
"""Tokens of `max_tokens` that are not the caption's: its start and its end."""
Raw = tuple[str, str, list[tuple[str, bool]], list[str]]
"""An image's name and the hash of its content, its captions with whether each ended, and what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class OfProcess:
    """The batches of one process, whole: every `world`-th, from batch `first` on."""

    images: InOrder
    first: int
    rank: int
    world: int

    def step(self, step: int) -> list[Draw]:
        return self.images.step(self.first + step * self.world + self.rank)


class Sampler:
    """Captions of images by `model`, `each` of every image."""

    def __init__(self, model: VLModel, machine: Machine, settings: Settings, each: int, caches: Caches) -> None:
        self.model = model
        self.machine = machine
        self.settings = settings
        self.each = each
        self.caches = caches
        self.length = max(1, settings.max_tokens - ROOM)

    def batches(self, listing: Listing, first: int, rank: int, world: int) -> Iterator[list[Raw]]:
        """This process's batches from batch `first` on, in the order of the images."""
        rows = np.arange(len(listing))
        data = Data((listing,), None, (rows,), (rows[:0],), Bounds(1.0, len(listing)))
        options = ReadOptions(self.model.vpg.preprocessing, texts="instruction", template=NoTemplate())
        caches = self._open(data, options)
        reader = StepReader(data, NoText(), options, next(iter(caches.values()), None))
        order = InOrder(data.train, BATCH)
        mine = range(first + rank, len(order), world)
        steps = OfProcess(order, first, rank, world)
        loader = Loader(reader, steps, start=0, stop=len(mine), workers=self.settings.workers)
        for step in loader:
            yield self._batch(listing, steps.step(step.step), step, caches)

    def _open(self, data: Data, options: ReadOptions) -> dict[Kind, CachedImages]:
        """The caches that the run's stages will read from: outputs where the VPG is frozen, which come first, and
        features where it is trained."""
        trains = {stage.trains_vpg for stage in stages_of(self.settings)}
        kinds: list[Kind] = [*(["outputs"] if False in trains else []), *(["features"] if True in trains else [])]  # type: ignore[list-item]
        opened: dict[Kind, CachedImages] = {}
        for kind in kinds:
            cache = self.caches.open(
                self.model.vpg, kind, self.machine.dtype, self.settings, images=len(data.listings[0])
            )
            if cache is not None:
                opened[kind] = CachedImages(cache, EntryNames(data, options))
        return opened

    def _batch(
        self, listing: Listing, draws: list[Draw], step: StepData, caches: dict[Kind, CachedImages]
    ) -> list[Raw]:
        """The captions of one batch; an image that cannot be read has none."""
        shas = {draw.row: sha_of(listing.images[draw.row]) for draw in step.draws}
        prompts = self._soft_prompts(step, caches) if len(step) else None
        bad = {missed.place: [missed.sample.kind, missed.sample.detail] for missed in step.bad}
        if prompts is None:
            self.model.llm.join_generation()
        texts = self._texts(prompts, list(shas.values())) if prompts is not None else []
        said = dict(zip(shas, texts, strict=True))
        return [
            (listing.keys[draw.row], shas.get(draw.row, ""), said.get(draw.row, []), bad.get(place, []))
            for place, draw in enumerate(draws)
        ]

    @torch.no_grad()
    def _soft_prompts(self, step: StepData, caches: dict[Kind, CachedImages]) -> Prompts:
        """Soft prompts ``[B, Q, D]``; what the VPG computes on the way is kept."""
        visual, kind, vpg = step.visual.to(self.machine.device), step.visual_kind, self.model.vpg
        with torch.autocast(
            self.machine.device.type, dtype=self.machine.autocast, enabled=self.machine.autocast is not None
        ):
            if kind == "pixels":
                visual = changed(visual, lambda pixels: vpg.features(normalize(pixels, vpg.preprocessing)))
                kind = "features"
                visual = caches["features"].keep(step.image_views, visual, kind) if "features" in caches else visual
            if kind == "features":
                visual, kind = changed(visual, vpg.prompts), "outputs"
                visual = caches["outputs"].keep(step.image_views, visual, kind) if "outputs" in caches else visual
            return self.model.soft_prompts(visual, kind)

    def _texts(self, prompts: Prompts, shas: list[str]) -> list[list[tuple[str, bool]]]:
        """The captions of each image, `each` of them."""
        draws = [numbers(self.settings.seed, sha, n, self.length) for sha in shas for n in range(self.each)]
        temperature = self.settings.caption_temperature
        sampled = self.model.llm.sample(
            repeated(prompts, self.each), torch.tensor(draws, dtype=torch.float64), temperature
        )
        texts: list[Any] = [(one.text, one.ended) for one in sampled]
        return [texts[start : start + self.each] for start in range(0, len(texts), self.each)]


def numbers(seed: int, sha: str, number: int, length: int) -> list[float]:
    """The random numbers of one caption of one image."""
    rng = random.Random(f"caption:{seed}:{sha}:{number}")
    return [rng.random() for _ in range(length)]

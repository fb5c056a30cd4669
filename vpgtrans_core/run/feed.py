"""From data to a stage's batches: which images, read how, and what of them is already computed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vpgtrans_core.cache.cached_images import CachedImages
from vpgtrans_core.cache.key import Kind
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.cards import load
from vpgtrans_core.data.bad import BadLog, Bounds
from vpgtrans_core.data.captions import clean, keep
from vpgtrans_core.data.conversation import TextKind
from vpgtrans_core.data.data import Data, open_data
from vpgtrans_core.data.images import Augmentation
from vpgtrans_core.data.limit import Limit
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.loader import Gather, Loader, Missed, ReadOptions, StepData, StepReader
from vpgtrans_core.data.order import InOrder
from vpgtrans_core.data.pictures import Describe, Wanted
from vpgtrans_core.data.tiles import Visual
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.text import Text, limited
from vpgtrans_core.machine import Machine
from vpgtrans_core.processes.heartbeat import WatchedAccelerator
from vpgtrans_core.recipes.captions import captions_each
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.lengths import Lengths
from vpgtrans_core.settings import Settings, stage_settings, stages_of
from vpgtrans_core.templates import ChatTemplate
from vpgtrans_core.train.step import Batch, View
from vpgtrans_core.vlm.model import VisualKind, VLModel

if TYPE_CHECKING:
    from vpgtrans_core.cache.store import FeatureCache

CHECKED_IMAGES = 256
"""Images of the first step whose texts' lengths are checked before training."""
HELD_OUT_BATCH = 64
"""Held-out images computed together, over all processes."""


@dataclass(frozen=True)
class TrainingData:
    """The images trained on and those held out: of the same data, or of data of their own (``--val-data``); and what
    is kept of them on disk."""

    train: Data
    own_held_out: Data | None = None
    caches: Caches = field(default_factory=Caches)
    met: list[BadLog] = field(default_factory=list)
    """The bad samples that training met, one log a source; stages that share the data add to the same logs."""

    def __post_init__(self) -> None:
        self.met.extend(BadLog() for _ in self.train.listings[len(self.met) :])

    @property
    def held_out(self) -> Data:
        return self.own_held_out or self.train

    @property
    def held_out_images(self) -> int:
        return self.own_held_out.images if self.own_held_out else self.train.held_out_images

    def held_out_order(self, images_per_step: int) -> InOrder:
        if self.own_held_out:
            return self.own_held_out.train_in_order(images_per_step)
        return self.train.held_out_order(images_per_step)

    def describe(self) -> dict[str, Any]:
        """Counts, hashes and skipped samples for run.json."""
        own = {"held_out": self.own_held_out.describe()} if self.own_held_out else {}
        return {**self.train.describe(), **own}

    def record(self) -> dict[str, Any]:
        """The same for run.json, with the bad samples that were met since the readers listed theirs."""
        met = [log.without(listing.bad) for listing, log in zip(self.train.listings, self.met, strict=True)]
        return {**self.describe(), "bad": [log.describe() for log in met]}


def open_training_data(
    settings: Settings, source_data: str = "", caches: Caches | None = None, describe: Describe | None = None
) -> TrainingData:
    """Open the settings' data, or what comes with the source when none is given.

    Args:
        source_data: ``"module:function"`` that returns the `Listing` of the latter.
        caches: the caches to share; default new ones.
        describe: writes the captions of images without any; None to plan only how many there will be.

    Raises:
        DataError: see `open_data`.
    """
    bounds = Bounds(settings.max_bad_ratio, settings.max_bad_run)
    own = None
    cleaning = None if settings.clean is None else clean if settings.clean else keep
    if settings.val_data:
        own = open_data(
            [settings.val_data],
            bounds=bounds,
            limit=settings.val_images,
            clean=cleaning,
            caption_key=settings.caption_key,
        )
    val_images = 0 if own else settings.val_images or 0
    given: Sequence[str | Listing] = settings.data
    train = open_data(
        given or ([load(source_data)()] if source_data else []),
        settings.format,
        settings.ratios,
        val_images=val_images,
        limit=settings.limit,
        bounds=bounds,
        clean=cleaning,
        caption_key=settings.caption_key,
        wanted=Wanted(each, describe, settings.caption_share) if (each := captions_each(settings.captions)) else None,
    )
    return TrainingData(train, own, caches or Caches())


def open_stage_data(
    settings: Settings, stages: Sequence[Stage], source_data: str = "", describe: Describe | None = None
) -> list[TrainingData]:
    """The data of each stage; stages with the same data share it, and all share their caches.

    Raises:
        DataError: see `open_data`.
    """
    caches = Caches()
    opened: dict[Any, TrainingData] = {}
    every = []
    for own in [stage_settings(settings, stage) for stage in stages] or [settings]:
        key = own.data, own.format, own.ratios, own.clean
        if key not in opened:
            opened[key] = open_training_data(own, source_data, caches, describe)
        every.append(opened[key])
    return every


def training_captions(data: Data) -> Iterator[str]:
    """The captions of the training images, in the order of their rows."""
    for source, rows in enumerate(data.train):
        for row in rows:
            yield from (caption.text for caption in data.sample(source, int(row)).captions)


def bad_of_all(accelerator: WatchedAccelerator) -> Gather:
    """What gives each process the bad samples that all processes met in a step: a number goes round every step, the
    samples themselves only when there are some."""

    def gather(mine: list[Missed]) -> list[Missed]:
        count = accelerator.reduce(torch.tensor(len(mine), device=accelerator.device), reduction="sum")
        return accelerator.gather_object(mine) if int(count) else []

    return gather


class Feed:
    """The batches of one stage for this process.

    Args:
        data: training and held-out images.
        settings: as they are in the stage, see `stage_settings`.
        model: whose VPG and texts the batches are for; what the stage trains must be set.
        stream: chooses the order of the images: the stage's number.
        stage: says whether captions or whole conversations are learned; None for captions.
        template: makes texts of conversations.
        say: is told once when many labels are cut off by the limit of length.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: Settings,
        model: VLModel,
        machine: Machine,
        stream: int,
        stage: Stage | None = None,
        template: ChatTemplate | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.all = data
        self.data = data.train
        self.settings = settings
        self.model = model
        self.machine = machine
        self.stream = stream
        self.texts: TextKind = stage.texts if stage else "caption"
        self.instructions = stage.instructions if stage else ()
        self.template = template
        self.lengths = Lengths()
        self.limit = Limit(settings.max_tokens, model.llm.room(Text(()), 0), model.vpg.num_prompts)
        self._say = say
        self._told = False
        batch_size = settings.batch_size or 1
        self.images_per_step = min(self.data.images, self.data.images_per_step(batch_size, settings.captions_per_image))
        self.order = self.data.order(settings.seed, self.images_per_step, stream=stream)
        self._held_out: list[Batch] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps(1)

    @property
    def held_out_steps(self) -> float:
        """How many steps have as many captions as are held out."""
        held_out = self.all.held_out_images * self.all.held_out.captions_a_visit() if self.all.held_out_images else 0
        return held_out / (self.images_per_step * self.data.captions_a_visit(self.settings.captions_per_image))

    def batches(self, total: int) -> Callable[[int], Iterator[tuple[Batch, float]]]:
        """Return what gives the batches from a first step to step `total`, each with the seconds waited for it."""

        def generate(first: int) -> Iterator[tuple[Batch, float]]:
            loader = self._loader(self._reader(augment=True, cache=self.cache), self.order, first, total)
            for log, before in zip(loader.bad, self.all.met, strict=True):
                log.load_state_dict(before.state_dict())
            self.all.met[:] = loader.bad
            for data in loader:
                self.lengths.count(text for sample in data.texts for text in sample)
                self._tell(self.lengths.alarming)
                yield self._batch(data), data.waited

        return generate

    def held_out(self) -> Iterable[Batch]:
        """The held-out images' batches; what is frozen of them is computed once."""
        if self._held_out is None:
            order = self.all.held_out_order(HELD_OUT_BATCH)
            reader = self._reader(augment=False, held_out=True, cache=self.cache)
            loader = self._loader(reader, order, 0, len(order))
            # a process that got no image of a batch, or none that can be read, has nothing to compute
            self._held_out = [self._frozen(self._batch(data), reader) for data in loader if len(data)]
            if not self.all.own_held_out:
                for log, more in zip(self.all.met, loader.bad, strict=True):
                    log.add(more)
        return self._held_out

    def frozen(self, batch: Batch) -> Batch:
        """A batch of `some_batches` whose images are computed up to where the stage's training begins, on the CPU."""
        return self._frozen(batch, self._reader(augment=False, cache=self.cache))

    def _frozen(self, batch: Batch, reader: StepReader) -> Batch:
        visual, kind = self.model.frozen(batch.visual.to(self.model.device), batch.kind)
        if isinstance(reader.features, CachedImages) and batch.kind != kind:
            visual = reader.features.keep(batch.views, visual, kind)
        return replace(batch, visual=visual.cpu(), kind=kind)

    def some_batches(self, images: int) -> Iterator[Batch]:
        """The first `images` training images, the same in every process; a DataError where none can be used."""
        reader, count, bad = self._reader(augment=False, cache=self.cache), 0, list[Missed]()
        for step in itertools.count():
            if count >= min(images, self.data.images):
                break
            draws = self.order.step(step)[: images - count]
            count += len(draws)
            for start in range(0, len(draws), HELD_OUT_BATCH):
                read = reader.read(step, draws[start : start + HELD_OUT_BATCH])
                bad += read.bad
                if len(read):
                    yield self._batch(read)
        if bad and count == len(bad):
            raise DataError(f"none of the first {count} images can be used; {bad[0].sample}")

    def examples(self, images: int) -> Iterator[tuple[Batch, list[str], list[str]]]:
        """A batch of some held-out (or else training) samples, with their names and one caption or answer each."""
        held = self.all.held_out_images > 0
        draws = (self.all.held_out_order(images) if held else self.order).step(0)[:images]
        reader = self._reader(augment=False, held_out=held, cache=self._cache_of_finished(), all_texts=True)
        read = reader.read(0, draws)
        samples = [reader.data.sample(draw.source, draw.row) for draw in read.draws]
        if samples:
            yield self._batch(read), read.keys, [s.captions[0].text for s in samples]

    def prompts(self, batch: Batch) -> str | list[Text]:
        """What a model is asked of a batch's samples: nothing after their images, or the first question about each."""
        if self.texts == "caption":
            return ""
        return [self._asked(texts[0]) for texts in batch.texts]

    def _asked(self, text: Text) -> Text:
        """What comes before the first answer; where all of a text is a question, less its last token, so that the LLM
        has a position left to answer at."""
        end = self.template.end if self.template else ""
        return replace(limited(text.split()[0], None if text.labels else text.tokens - 1), end=end)

    def check_lengths(self) -> None:
        """Look at the texts of the first step before any is trained on; the same ones in every process. Say it where
        the LLM has fewer positions than they want.

        Raises:
            DataError: the limit of length leaves nothing to learn in most of them, or one is too long for the LLM.
            ModelError: a text of the data has a token that the LLM has no embedding of.
        """
        for data in {id(d): d for d in (self.data, self.all.held_out)}.values():
            self.model.llm.check_words([listing.texts.data for listing in data.listings])
        reader, lengths = self._reader(augment=False), Lengths()
        for draw in self.order.step(0)[:CHECKED_IMAGES]:
            lengths.count(reader.texts(draw))
        lengths.check(self.limit)
        if beyond := self.limit.beyond(lengths.length_for(1)):
            self._say(f"stage {self.stream}: {beyond}")

    def all_lengths(self) -> Lengths:
        """The counts of all processes together; every process must ask."""
        total = Lengths()
        for lengths in self.machine.accelerator.gather_object([self.lengths]):
            total.add(lengths)
        return total

    def tell_lengths(self) -> dict[str, Any]:
        """Say at the end of the stage what the limit of length has cut off, unless it was said; return the counts of
        all processes for run.json."""
        lengths = self.all_lengths()
        self._tell(True, lengths)
        return lengths.describe()

    def _tell(self, now: bool, lengths: Lengths | None = None) -> None:
        message = (lengths or self.lengths).message(self.limit) if now and not self._told else None
        if message:
            self._told = True
            self._say(f"stage {self.stream}: {message}")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the feed: the bad samples met and the texts' lengths, of all processes; the place
        in the data is the stage's step. What was computed so far goes to the cache."""
        self.all.caches.flush()
        lengths = {**self.all_lengths().state_dict(), "told": self._told}
        return {"bad": [log.state_dict() for log in self.all.met], "lengths": lengths}

    def restore(self, state: dict[str, Any]) -> None:
        if "lengths" in state and self.machine.is_main:  # those of all processes, which are summed up again
            self.lengths.load_state_dict(state["lengths"])
        self._told = state.get("lengths", {}).get("told", False)
        for log, saved in zip(self.all.met, state.get("bad", []), strict=False):
            log.load_state_dict(saved)

    @cached_property
    def cache(self) -> FeatureCache | None:
        """What is kept on disk of what is not trained now: the VPG's features where it is, else its outputs."""
        return self._open_cache("features" if self.model.trains_vpg else "outputs")

    @property
    def keep(self) -> Callable[[Sequence[View], Visual, VisualKind], Visual] | None:
        """What the step gives its frozen results to."""
        features = self._reader(augment=True, cache=self.cache).features
        return features.keep if isinstance(features, CachedImages) else None

    def _cache_of_finished(self) -> FeatureCache | None:
        """The cache that still fits when training is over: a trained VPG has other outputs, but the same features."""
        return self._open_cache("features" if any(s.trains_vpg for s in stages_of(self.settings)) else "outputs")

    def _open_cache(self, kind: Kind) -> FeatureCache | None:
        images = self.data.images + self.all.held_out_images
        return self.all.caches.open(self.model.vpg, kind, self.machine.dtype, self.settings, images=images)

    def _reader(
        self, *, augment: bool, held_out: bool = False, cache: FeatureCache | None = None, all_texts: bool = False
    ) -> StepReader:
        settings = self.settings
        options = ReadOptions(
            preprocessing=self.model.vpg.preprocessing,
            max_tokens=settings.max_tokens,
            positions=self.limit.positions,
            num_prompts=self.limit.num_prompts,
            seed=0 if held_out else settings.seed,  # every run is measured on the same texts
            captions_per_image=None if held_out or all_texts else settings.captions_per_image,
            augmentation=Augmentation(crop_min=settings.crop_min) if augment and settings.augment else None,
            views=settings.views if cache is not None else None,
            texts=self.texts,
            template=self.template,
            instructions=self.instructions,
        )
        data = self.all.held_out if held_out else self.data
        features = CachedImages(cache, EntryNames(data, options)) if cache is not None else None
        return StepReader(data, self.model.llm.text, options, features)

    def _loader(self, reader: StepReader, order: Any, start: int, stop: int) -> Loader:
        accelerator = self.machine.accelerator
        return Loader(
            reader,
            order,
            start=start,
            stop=stop,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            workers=self.settings.workers,
            pin=self.machine.device.type == "cuda",
            gather=bad_of_all(accelerator) if accelerator.num_processes > 1 else None,
        )

    def _batch(self, data: StepData) -> Batch:
        return Batch(data.visual, data.visual_kind, data.texts, data.image_views, data.images)

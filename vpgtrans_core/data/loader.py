"""From a step's draws to tensors: reads, decodes, augments and encodes, in worker processes or in this one."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from vpgtrans_core.data import images
from vpgtrans_core.data.bad import BAD_TEXT, TOO_MANY_TILES, BadLog, BadSample, BadSampleError
from vpgtrans_core.data.conversation import Template, TextKind
from vpgtrans_core.data.data import Data
from vpgtrans_core.data.images import Augmentation
from vpgtrans_core.data.limit import Limit
from vpgtrans_core.data.order import Draw
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.data.sample import CachedKind, Encoder, Sample, VisualKind
from vpgtrans_core.data.tiles import Tiles, Visual, stacked
from vpgtrans_core.data.workers import default_workers, read_in_workers


class Steps(Protocol):
    """Which images a step holds: `Order` or `InOrder`."""

    def step(self, step: int) -> list[Draw]: ...


class FeatureSource(Protocol):
    """What the VPG made of images before: a cache, used instead of decoding. Picklable: it travels to workers."""

    kind: CachedKind

    def get(self, source: int, row: int, view: int, image: int = 0) -> Visual | None:
        """The features ``[N, C]`` or output ``[Q, D]`` of a sample's `image`-th image, or those of its tiles; None when
        they are not there."""
        ...


@dataclass(frozen=True)
class ReadOptions:
    """How samples become tensors.

    Attributes:
        preprocessing: the VPG's.
        texts: whether captions or whole conversations are learned.
        template: what makes a text of a conversation.
        instructions: what asks for captions without a prompt where conversations are learned; one at random.
        max_tokens: longest text.
        positions, num_prompts: what else limits it, see `Limit`.
        seed: of captions, splits and augmentation.
        captions_per_image: texts of an image a visit; None for all.
        augmentation: None for none.
        views: with augmentation, how many different views an image has over all visits; None for a new one each visit.
    """

    preprocessing: Preprocessing
    max_tokens: int = 32
    seed: int = 0
    captions_per_image: int | None = None
    augmentation: Augmentation | None = None
    views: int | None = None
    texts: TextKind = "caption"
    template: Template | None = None
    instructions: tuple[str, ...] = ()
    positions: int | None = None
    num_prompts: int = 0

    def longest(self, images: int = 1, taken: int | None = None) -> int:
        """The most tokens of a text that shows so many images.

        Args:
            taken: how many positions the images take, where that depends on their sizes.

        Raises:
            BadSampleError: they leave no room for any.
        """
        limit = Limit(self.max_tokens, self.positions, self.num_prompts)
        kind, taken = (BAD_TEXT, images * self.num_prompts) if taken is None else (TOO_MANY_TILES, taken)
        if (tokens := limit.tokens_beside(taken)) < 1:
            said = f"{images} images take {taken} of the {self.positions} positions that the language model has"
            raise BadSampleError(kind, said)
        return tokens

    def view(self, visit: int) -> int:
        """Which view of an image is shown on this visit."""
        if self.augmentation is None:
            return 0
        return visit if self.views is None else visit % self.views


class Missed(NamedTuple):
    """A bad sample of a step: the place among the step's draws at which it is missing, and its source."""

    place: int
    source: int
    sample: BadSample


Gather = Callable[[list[Missed]], list[Missed]]


@dataclass
class StepData:
    """The readable samples of one step of one process.

    Attributes:
        step: the step's number.
        draws: which samples, in order; bad ones are left out.
        keys: their keys.
        views: which view of each is shown.
        visual: ``[I, ...]``, the images of the first sample, of the second, and so on: uint8 pixels ``[I, 3, S, S]``
            (for `images.normalize`), ViT features or VPG outputs; `Tiles` of them where pictures are cut.
        visual_kind: which of the three.
        texts: the texts of each sample, as the `Encoder` made them.
        images: how many images each sample has.
        bad: the bad samples that are missing, in order.
        worked: seconds that reading took, in whichever process did it.
        waited: seconds that training waited for this step.
    """

    step: int
    draws: list[Draw]
    keys: list[str]
    views: list[int]
    visual: Visual
    visual_kind: VisualKind
    texts: list[list[Any]]
    images: list[int]
    bad: list[Missed] = field(default_factory=list)
    worked: float = 0.0
    waited: float = 0.0

    def __len__(self) -> int:
        return len(self.draws)

    @property
    def image_views(self) -> list[tuple[int, ...]]:
        """Of each image: source, row, view, and which of its sample's images it is."""
        samples = zip(self.draws, self.views, self.images, strict=True)
        return [(draw.source, draw.row, view, n) for draw, view, count in samples for n in range(count)]

    def pin_memory(self) -> StepData:
        """Called by torch's loader: pin the images, so that they travel to the GPU while it computes."""
        self.visual = self.visual.pin_memory()
        return self


class StepReader:
    """Makes the `StepData` of a list of draws. A pure function of the draws: no state, no order of calls."""

    def __init__(self, data: Data, text: Encoder, options: ReadOptions, features: FeatureSource | None = None) -> None:
        self.data = data
        self.text = text
        self.options = options
        self.features = features

    def read(self, step: int, draws: Sequence[Draw]) -> StepData:
        """Read one step. Bad samples are left out and named in the result."""
        start = time.perf_counter()
        samples = [self.data.sample(draw.source, draw.row) for draw in draws]
        kind, visuals, bad = self._visuals(draws, samples)
        texts: dict[int, list[Any]] = {}
        for place in [place for place, visual in enumerate(visuals) if visual is not None]:
            try:
                texts[place] = self._texts(draws[place], samples[place], self._taken(visuals[place]))
            except BadSampleError as error:
                bad.append(self._missed(place, draws, samples, error))
        kept = [(place, visual) for place, visual in enumerate(visuals) if visual is not None and place in texts]
        images = [image for _, visual in kept for image in visual]
        return StepData(
            step=step,
            draws=[draws[i] for i in texts],
            keys=[samples[i].key for i in texts],
            views=[self.options.view(draws[i].visit) for i in texts],
            visual=stacked(images) if images else self._nothing(),
            visual_kind=kind if images else "pixels",
            texts=list(texts.values()),
            images=[len(visual) for _, visual in kept],
            bad=sorted(bad, key=lambda missed: missed.place),
            worked=time.perf_counter() - start,
        )

    def _visuals(
        self, draws: Sequence[Draw], samples: Sequence[Sample]
    ) -> tuple[VisualKind, list[list[Visual] | None], list[Missed]]:
        """One tensor an image of each sample, None for a bad sample. Features when all good samples have them, else
        pixels of all."""
        everything = range(len(draws))
        if self.features is not None:
            cached = [self._cached(draw, sample) for draw, sample in zip(draws, samples, strict=True)]
            rest = [i for i in everything if cached[i] is None]
            pixels, bad = self._decode(rest, draws, samples)
            if all(p is None for p in pixels):
                return self.features.kind, cached, bad
            others = [i for i in everything if cached[i] is not None]
            more, worse = self._decode(others, draws, samples)
            decoded = dict(zip(rest + others, pixels + more, strict=True))
            return "pixels", [decoded[i] for i in everything], bad + worse
        pixels, bad = self._decode(everything, draws, samples)
        return "pixels", pixels, bad

    def _cached(self, draw: Draw, sample: Sample) -> list[Visual] | None:
        """The features of all images of a sample, if they are there."""
        assert self.features is not None
        view = self.options.view(draw.visit)
        values = [self.features.get(draw.source, draw.row, view, image) for image in range(len(sample.images))]
        there = [value for value in values if value is not None]
        return there if len(there) == len(values) else None

    def _decode(
        self, places: Sequence[int], draws: Sequence[Draw], samples: Sequence[Sample]
    ) -> tuple[list[list[Visual] | None], list[Missed]]:
        """The pixels of the samples at these places, None for a bad one."""
        visuals: list[list[Visual] | None] = []
        bad = []
        for place in places:
            draw, sample = draws[place], samples[place]
            try:
                visuals.append([self._pixels(draw, sample, image) for image in range(len(sample.images))])
            except BadSampleError as error:
                visuals.append(None)
                bad.append(self._missed(place, draws, samples, error))
        return visuals, bad

    def _missed(self, place: int, draws: Sequence[Draw], samples: Sequence[Sample], error: BadSampleError) -> Missed:
        return Missed(place, draws[place].source, BadSample(samples[place].key, error.kind, error.detail))

    def _pixels(self, draw: Draw, sample: Sample, number: int) -> Visual:
        image = images.open_image(sample.images[number])
        options = self.options
        if options.augmentation is None:
            return images.pixels(image, options.preprocessing)
        rng = self._rng("view", *drawn_from(draw.source, sample.key, options.view(draw.visit), number))
        return images.augmented(image, options.preprocessing, options.augmentation, rng)

    def texts(self, draw: Draw) -> list[Any]:
        """The encoded texts of one sample, whose images are not read; empty for a sample that cannot be used."""
        with contextlib.suppress(BadSampleError):
            return self._texts(draw, self.data.sample(draw.source, draw.row))
        return []

    def _taken(self, pictures: Sequence[Visual] | None) -> int | None:
        """How many of the LLM's positions a sample's pictures take, where that depends on their sizes."""
        if self.options.positions is None:
            return None
        sizes = [size for tiles in pictures or () if isinstance(tiles, Tiles) for size in tiles.sizes]
        runs = [run for size in sizes for run in self.options.preprocessing.runs(*size)]
        return sum(run if isinstance(run, int) else len(self.text.words(run)) for run in runs) if sizes else None

    def _texts(self, draw: Draw, sample: Sample, taken: int | None = None) -> list[Any]:
        options = self.options
        rng = self._rng("text", draw.source, sample.key, draw.visit)
        if options.texts == "caption":
            if len(sample.images) > 1:
                raise BadSampleError(BAD_TEXT, f"{len(sample.images)} images, but a caption describes one")
            captions = self._choose(draw, sample.key, sample.captions)
            return [self.text.encode(caption, options.longest(1, taken), rng) for caption in captions]
        if options.template is None:
            raise ValueError("conversations need a template")
        asked_by = rng.choice(options.instructions) if options.instructions else ""
        conversations = self._choose(draw, sample.key, sample.conversations(asked_by))
        talks = [(options.template.spans(c), options.longest(len(c.marks), taken)) for c in conversations]
        return [self.text.encode_spans(*talk) for talk in talks]

    def _choose(self, draw: Draw, key: str, texts: Sequence[Any]) -> Sequence[Any]:
        """The texts of this visit: in turn from a shuffled round, so that all of them are used equally often."""
        count, most = len(texts), self.options.captions_per_image
        if most is None or most >= count:
            return texts
        shuffled = list(range(count))
        self._rng("captions", draw.source, key).shuffle(shuffled)
        return [texts[shuffled[(draw.visit * most + i) % count]] for i in range(most)]

    def _rng(self, *what: Any) -> random.Random:
        """A generator for one purpose of one sample; the same in every process and after every restart."""
        return random.Random(":".join(map(str, (self.options.seed, *what))))

    def _nothing(self) -> Visual:
        size = self.options.preprocessing.size
        return torch.zeros((0, 3, size, size), dtype=torch.uint8)


def drawn_from(source: int, key: str, view: int, image: int) -> tuple[Any, ...]:
    """All that an augmented view of an image is drawn from, besides the seed."""
    return (source, key, view, image) if image else (source, key, view)


class Loader:
    """Gives the steps of this process in order, starting anywhere, read ahead in worker processes.

    Because a step is a pure function of its number, nothing has to be saved for a resume, and workers that die or
    hang are replaced and their step read again.

    Args:
        reader: what makes a step.
        steps: which images each step holds.
        start: the first step.
        stop: the step after the last.
        rank, world: this process takes ``[rank::world]`` of each step's images.
        workers: reading processes; 0 reads in this one. None chooses by the cores.
        ahead: steps that each worker reads ahead.
        pin: pin the images' memory, for a GPU.
        timeout: seconds without a step after which workers count as hung.
        gather: returns the bad samples that all processes met in a step, of those that each of them met; called once
            a step by every process. Without it a process knows only its own.

    Attributes:
        bad: one `BadLog` a source, over all steps given so far; with `gather` the same in every process.
    """

    def __init__(
        self,
        reader: StepReader,
        steps: Steps,
        *,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        workers: int | None = 0,
        ahead: int = 2,
        pin: bool = False,
        timeout: float = 300.0,
        gather: Gather | None = None,
    ) -> None:
        self.reader = reader
        self.steps = steps
        self.start = start
        self.stop = stop
        self.rank = rank
        self.world = world
        self.workers = default_workers() if workers is None else workers
        self.ahead = ahead
        self.pin = pin
        self.timeout = timeout
        self.gather = gather
        self.bad = [BadLog() for _ in reader.data.listings]

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[StepData]:
        """Yield each step.

        Raises:
            DataError: a bound on bad samples is passed, or workers died or hung again and again.
        """
        source = self._read_here() if self.workers == 0 else self._read_in_workers()
        with contextlib.closing(source):
            while True:
                start = time.perf_counter()
                step = next(source, None)
                if step is None:
                    return
                step.waited = time.perf_counter() - start
                self._watch(step)
                yield step

    def _draws(self, step: int) -> list[Draw]:
        return self.steps.step(step)[self.rank :: self.world]

    def _watch(self, step: StepData) -> None:
        """Count the bad samples that all processes met in this step, and stop when a source has too many of them.
        Every process counts the same ones, so all of them stop at the same step or none does."""
        mine = [missed._replace(place=self.rank + missed.place * self.world) for missed in step.bad]
        missing = {missed.place: missed for missed in (self.gather(mine) if self.gather else mine)}
        for place, draw in enumerate(self.steps.step(step.step)):
            if place in missing:
                self.bad[draw.source].bad(missing[place].sample)
            elif self.gather or place % self.world == self.rank:
                self.bad[draw.source].good()
        for source in sorted({missed.source for missed in missing.values()}):
            self.check(source)

    def check(self, source: int) -> None:
        """Raise DataError when what the reader skipped and what was met since pass the bounds."""
        listing = self.reader.data.listings[source]
        listing.all_bad(self.bad[source]).check(listing.samples, self.reader.data.bounds, listing.path)

    def _read_in_workers(self) -> Generator[StepData, None, None]:
        return read_in_workers(
            self.reader.read,
            self._draws,
            self.start,
            self.stop,
            workers=self.workers,
            ahead=self.ahead,
            pin=self.pin,
            timeout=self.timeout,
        )

    def _read_here(self) -> Generator[StepData, None, None]:
        for number in range(self.start, self.stop):
            step = self.reader.read(number, self._draws(number))
            yield step.pin_memory() if self.pin else step

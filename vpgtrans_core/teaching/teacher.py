"""Lets the source describe images that have no captions, once, and keeps what it said in the run's folder.

Each caption is drawn with random numbers of its own, which follow from the seed and the image's content. Images are
computed in the same batches whatever the number of processes. So a run's captions are the same on one process and on
two, and a run that is stopped while the source writes goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.data.bad import BadLog, BadSample, Bounds
from vpgtrans_core.data.captions import clean, keep
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.pictures import with_captions
from vpgtrans_core.errors import ConfigError, DataError
from vpgtrans_core.machine import Machine
from vpgtrans_core.models.resolved import ResolvedSource
from vpgtrans_core.recipes.captions import captions_each
from vpgtrans_core.settings import Settings
from vpgtrans_core.teaching.content import sha_of
from vpgtrans_core.teaching.rule import RULE, sift
from vpgtrans_core.teaching.sampler import BATCH, Sampler
from vpgtrans_core.teaching.store import FOLDER, CaptionFile, Told
from vpgtrans_core.train.stage import Progress
from vpgtrans_core.vlm.assemble import load_whole

MOST_DROPPED = 0.5
"""The share of dropped captions above which the user is warned."""
ALIKE_FROM = 8
"""Images from which a source that says the same of all is refused: it does not see."""


class Teacher:
    """Describes the images of listings; see `describe`.

    Args:
        source: the whole source.
        settings: of the run.
        machine: where it computes.
        folder: of the run; the captions lie in it.
        files: hashes of the source's files by name.
        reporter: receives the progress.

    Attributes:
        record: what was sampled, kept and dropped of all listings, for run.json; empty if nothing was asked.
    """

    def __init__(
        self,
        source: ResolvedSource,
        settings: Settings,
        machine: Machine,
        folder: Path,
        files: dict[str, Any],
        reporter: Progress,
    ) -> None:
        self.source = source
        self.settings = settings
        self.machine = machine
        self.folder = folder
        self.files = files
        self.reporter = reporter
        self.each = captions_each(settings.captions) if settings.caption_temperature else 1
        self.record: dict[str, Any] = {}
        self._caches = Caches()
        self._sampler: Sampler | None = None
        self._listings = 0

    def describe(self, listing: Listing) -> Listing:
        """Return the images that got captions, with them.

        Raises:
            DataError: none of the captions can be used, or too many images cannot be read.
            ConfigError: a resumed run's images have changed.
        """
        self._listings += 1
        path = self.folder / FOLDER / f"{self._listings}.jsonl"
        file = CaptionFile(path, self._key(), writes=self.machine.is_main)
        told = self._told_before(file, listing)
        met = BadLog()
        if len(told) < len(listing):
            self.reporter.stage("captions by the source", -(-(len(listing) - len(told)) // BATCH))
            for batch in self._rounds(listing, len(told)):
                file.add(batch)
                told += batch
                self._check_read(listing, batch, met)
        self._note(listing, told)
        return with_captions(listing, [one.captions for one in told], by=f"source {self.source.name}")

    def close(self) -> None:
        """Free the source, and write what its VPG computed to the cache."""
        self._caches.flush()
        self._sampler = None

    def _key(self) -> dict[str, Any]:
        """What captions depend on, besides the images."""
        settings = self.settings
        names = ("caption_temperature", "seed", "max_tokens", "clean", "dtype", "quantization")
        own = {name: getattr(settings, name) for name in names}
        return {"source": self.files, "each": self.each, "rule": RULE, **own}

    def _told_before(self, file: CaptionFile, listing: Listing) -> list[Told]:
        """What an earlier part of the run has kept, as whole batches.

        Raises:
            ConfigError: an image has other content than it had then, and no change is accepted.
        """
        accelerator = self.machine.accelerator
        told = file.read([listing.keys[row] for row in range(len(listing))]) if self.machine.is_main else []
        changed = next((n for n, one in enumerate(told) if one.sha and one.sha != sha_of(listing.images[n])), None)
        told, changed = accelerator.gather_object([(told, changed)])[0]
        if changed is not None and not self.settings.accept_changes:
            raise ConfigError(
                [f"{listing.path}: {told[changed].image} has changed since the source described it"],
                "put it back, start a new run with another --out, or describe it again with --accept-changes",
            )
        whole = len(told) if changed is None else changed
        whole = whole if whole == len(listing) else whole // BATCH * BATCH
        return file.keep(told, whole) if self.machine.is_main else list(told[:whole])

    def _rounds(self, listing: Listing, first: int) -> Iterator[list[Told]]:
        """The batches from image `first` on, one of each process at a time."""
        if self._sampler is None:
            self.reporter.message(f"loading {self.source.name} to describe images")
            model = load_whole(self.source, self.machine, self.settings)
            self._sampler = Sampler(model, self.machine, self.settings, self.each, self._caches)
        accelerator = self.machine.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        batches = self._sampler.batches(listing, first // BATCH, rank, world)
        for number in range(first // BATCH, -(-len(listing) // BATCH), world):
            if number + rank >= -(-len(listing) // BATCH):  # the last round has no batch for this process
                self._sampler.model.llm.join_generation()
            mine = [self._sifted(*one) for one in next(batches, [])]
            together = [one for part in accelerator.gather_object([mine]) for one in part]
            yield together
            self.reporter.step(min(world, -(-len(listing) // BATCH) - number))

    def _sifted(self, image: str, sha: str, texts: Sequence[tuple[str, bool]], bad: list[str]) -> Told:
        kept, dropped, first = sift(texts, keep if self.settings.clean is False else clean)
        return Told(image, kept, sha, dict(dropped), first, bad)

    def _check_read(self, listing: Listing, told: Sequence[Told], met: BadLog) -> None:
        """Stop, in all processes alike, when too many images cannot be read."""
        for one in told:
            if one.bad:
                met.bad(BadSample(one.image, *one.bad))
            else:
                met.good()
        if met.total:
            bounds = Bounds(self.settings.max_bad_ratio, self.settings.max_bad_run)
            listing.all_bad(met).check(listing.samples, bounds, listing.path)

    def _note(self, listing: Listing, told: Sequence[Told]) -> None:
        """Count what was said; tell it, and refuse what no one can learn from.

        Raises:
            DataError: nothing of it can be used.
        """
        dropped: Counter[str] = Counter()
        first: dict[str, str] = {}
        for one in told:
            dropped.update(one.dropped)
            first = one.first | first
        kept = sum(len(one.captions) for one in told)
        sampled = kept + dropped.total()
        kinds = ", ".join(f"{count} x {kind} ({RULE[kind]})" for kind, count in dropped.most_common())
        summary = f"{self.source.name} wrote {sampled} captions of {len(told)} images; {kept} are kept"
        told_kinds = f"{summary}, dropped: {kinds}" if dropped else summary
        if sampled and not kept:
            example = next(iter(first.values()))
            raise DataError(
                f"{listing.path}: {told_kinds}. For instance: {example[:200]!r}",
                "the source does not describe images; look at it with `vpgt caption`, or give captions",
            )
        spoken = [one.captions for one in told if one.captions]
        if len(spoken) >= ALIKE_FROM and len({text for texts in spoken for text in texts}) == 1:
            raise DataError(
                f"{listing.path}: {self.source.name} says the same of all {len(spoken)} images: {spoken[0][0]!r}",
                "the source does not see; train it longer, or give captions",
            )
        say = self.reporter.warning if dropped.total() > MOST_DROPPED * sampled else self.reporter.message
        say(told_kinds)
        self._add(len(told), len(spoken), sampled, kept, dropped, first)

    def _add(
        self, images: int, described: int, sampled: int, kept: int, dropped: Counter[str], first: dict[str, str]
    ) -> None:
        """Add one listing to the record."""
        before = self.record or {"images": 0, "described": 0, "sampled": 0, "kept": 0, "dropped": {}, "examples": {}}
        self.record = {
            "by": self.source.name,
            "each": self.each,
            "temperature": self.settings.caption_temperature,
            "seed": self.settings.seed,
            "images": before["images"] + images,
            "described": before["described"] + described,
            "sampled": before["sampled"] + sampled,
            "kept": before["kept"] + kept,
            "dropped": dict(sorted((Counter(before["dropped"]) + dropped).items())),
            "examples": first | before["examples"],
            "rule": RULE,
            "files": [f"{FOLDER}/{number + 1}.jsonl" for number in range(self._listings)],
        }

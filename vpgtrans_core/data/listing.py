"""What a reader makes of one source: all its samples, compactly, in an order that never changes."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadLog, BadSample
from vpgtrans_core.data.captions import keep
from vpgtrans_core.data.places import existing
from vpgtrans_core.data.regular import MAX_BYTES, read_regular
from vpgtrans_core.data.sample import Caption, ImageRef, InMemoryImage, Sample
from vpgtrans_core.data.strings import Strings, StringsBuilder

MAX_CHARACTERS = 20_000
"""Longest caption that is taken for one."""
MAX_MET = 1000
"""Different names of fields that are kept for a message."""


class Images(Protocol):
    """The images of a source by row. Picklable: it travels to data workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> ImageRef: ...


@dataclass(frozen=True)
class FileImage:
    """An image in a file below `root`. Names may not lead out of it; links that lie in it are followed, because
    whoever made the folder put them there, and what they lead to is read as a picture or not at all."""

    root: str
    name: str

    def read(self) -> bytes:
        return read_regular(existing(self.root, self.name), MAX_BYTES)


@dataclass(frozen=True)
class FileImages:
    """Images in files, named relative to `root`."""

    root: str
    names: Strings

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> ImageRef:
        return FileImage(self.root, self.names[row])


@dataclass(frozen=True)
class Listing:
    """All samples of one source: a sequence of `Sample`, held in flat buffers.

    Attributes:
        path: the source as the user named it.
        format: the name of its format.
        keys: one unique key an image.
        images: where each image is.
        texts: all captions, image after image; `ends` says where each image's captions end.
        prompts: the distinct prompts; `prompt_of` says which one each caption follows.
        bad: what the reader had to leave out, and the rows whose image file is not there.
        uncaptioned: images without any caption: no fault, only counted.
        imageless: texts without any image: no fault either.
        files: the files read, ``(name, bytes, modification time in ns)``.
        absent: how many rows have an image file that is not there. They stay, so that a source whose missing files
            are fetched later is the same source; they are counted in `bad`.
    """

    path: str
    format: str
    keys: Strings
    images: Images
    texts: Strings
    ends: np.ndarray
    prompts: tuple[str, ...]
    prompt_of: np.ndarray
    bad: BadLog
    uncaptioned: int = 0
    imageless: int = 0
    files: tuple[tuple[str, int, int], ...] = ()
    absent: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def samples(self) -> int:
        """All samples of the source: the rows, and those that the reader had to leave out."""
        return len(self) + self.bad.total - self.absent

    def all_bad(self, met: BadLog) -> BadLog:
        """What the reader left out together with what was `met` since; a sample that is in both counts once."""
        both = BadLog()
        both.add(self.bad)
        both.add(met)
        return both

    def __getitem__(self, row: int) -> Sample:
        first = int(self.ends[row - 1]) if row else 0
        captions = tuple(
            Caption(self.texts[i], self.prompts[self.prompt_of[i]]) for i in range(first, int(self.ends[row]))
        )
        return Sample(self.keys[row], self.images[row], captions)

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    @property
    def captions(self) -> int:
        """Number of captions."""
        return len(self.texts)

    def captions_of(self, rows: np.ndarray) -> np.ndarray:
        """How many captions each of these rows has, ``[len(rows)]``."""
        starts = np.concatenate([np.zeros(1, dtype=np.int64), self.ends])
        return self.ends[rows] - starts[rows]

    def fingerprint(self) -> str:
        """SHA-256 of keys, captions and prompts: two listings with the same one hold the same samples in order,
        wherever they lie. Keys are names below the images' folder or the shards' folder.

        The images' own bytes are not in it; `files` holds what is known of them without reading everything."""
        digest = hashlib.sha256()
        for part in (self.keys, self.texts, Strings.of(self.prompts)):
            digest.update(part.ends.tobytes())
            digest.update(part.data)
        digest.update(self.ends.tobytes())
        digest.update(self.prompt_of.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Counts, hash, files and bad samples for ``run.json``."""
        return {
            "path": self.path,
            "format": self.format,
            "images": len(self),
            "captions": self.captions,
            "images_without_caption": self.uncaptioned,
            "texts_without_image": self.imageless,
            "skipped": self.bad.describe(),
            "sha256": self.fingerprint(),
            "files": [{"name": name, "bytes": size, "mtime_ns": mtime} for name, size, mtime in self.files[:1000]],
            "files_total": len(self.files),
        }

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[tuple[Image.Image, Sequence[str | Caption]]],
        name: str = "memory",
        *,
        keys: Sequence[str] | None = None,
        clean: Callable[[str], str] = keep,
    ) -> Listing:
        """Make a source of images in memory with their captions.

        Args:
            pairs: each image with its captions, as texts or as `Caption` with a prompt.
            name: the source's name in reports and records.
            keys: one key an image; default its position.
            clean: how captions are cleaned; default not at all.
        """
        builder = ListingBuilder(name, "memory", clean)
        images: list[ImageRef] = []
        for row, (image, captions) in enumerate(pairs):
            key = keys[row] if keys is not None else f"{row:06d}"
            if builder.add(key, captions):
                images.append(InMemoryImage(key, image))
        return builder.build(images)


class ListingBuilder:
    """Collects the samples of one source; every reader ends in one.

    A reader keeps where its images are and appends to that whenever `add` returns True.
    """

    def __init__(self, path: str, format: str, clean: Callable[[str], str], wanted: str = "") -> None:
        self.path = path
        self.wanted = wanted
        """What is read, for the hint when nothing fits."""
        self.format = format
        self.clean = clean
        self.bad = BadLog()
        self.uncaptioned = 0
        self.imageless = 0
        self.absent = 0
        self.met: Counter[str] = Counter()
        """Names of fields, keys or columns that were met, for the message when nothing fits."""
        self._keys = StringsBuilder()
        self._seen: set[str] = set()
        self._texts = StringsBuilder()
        self._ends = array("q")
        self._prompts: dict[str, int] = {}
        self._prompt_of = array("i")

    def skip(self, key: str, kind: str, detail: str = "", count: int = 1) -> None:
        """Count a sample that cannot be used."""
        self.bad.bad(BadSample(key, kind, detail), count, again=True)

    def note_absent(self, key: str, kind: str, detail: str = "") -> None:
        """Count a row whose image file is known not to be readable; the row stays."""
        self.bad.bad(BadSample(key, kind, detail), in_a_row=False)
        self.absent += 1

    def meet(self, names: Iterable[Any]) -> None:
        """Note names that were met; of many thousand different ones the first are enough."""
        for name in names:
            if name in self.met or len(self.met) < MAX_MET:
                self.met[str(name)[:80]] += 1

    def add(self, key: str, captions: Sequence[Any]) -> bool:
        """Append an image with its captions (texts or `Caption`); what is no usable text is skipped and counted.

        Returns:
            True when the image is in; False when it has no usable caption or its key was there before.
        """
        if not captions:
            self.uncaptioned += 1
            return False
        if key in self._seen:
            self.skip(key, bad.DUPLICATE_KEY)
            return False
        usable = [c for number, raw in enumerate(captions) if (c := self._caption(key, number, raw)) is not None]
        if not usable:
            return False
        self.bad.good()
        self._seen.add(key)
        self._keys.append(key)
        for caption in usable:
            self._texts.append(caption.text)
            self._prompt_of.append(self._prompts.setdefault(caption.prompt, len(self._prompts)))
        self._ends.append(len(self._texts))
        return True

    def _caption(self, key: str, number: int, raw: Any) -> Caption | None:
        caption = raw if isinstance(raw, Caption) else Caption(raw) if isinstance(raw, str) else None
        name = f"{key} caption {number + 1}"
        if caption is None or not _sound(caption.text) or not _sound(caption.prompt):
            self.skip(name, bad.BAD_TEXT, f"not a usable text: {raw!r}"[:80])
            return None
        text = self.clean(caption.text)
        if not text:
            self.skip(name, bad.EMPTY_CAPTION)
            return None
        return Caption(text, caption.prompt)

    def build(self, images: Images | Sequence[ImageRef], files: Sequence[Path] = ()) -> Listing:
        """Close the listing. `images` holds one reference for every True of `add`; `files` are those read."""
        if len(images) != len(self._keys):
            raise ValueError(f"{len(images)} images for {len(self._keys)} samples")
        return Listing(
            path=self.path,
            format=self.format,
            keys=self._keys.build(),
            images=images,
            texts=self._texts.build(),
            ends=np.array(self._ends, dtype=np.int64),
            prompts=tuple(self._prompts),
            prompt_of=np.array(self._prompt_of, dtype=np.int32),
            bad=self.bad,
            uncaptioned=self.uncaptioned,
            imageless=self.imageless,
            absent=self.absent,
            files=tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files),
        )


def _sound(text: Any) -> bool:
    """Whether this is a text of bounded length that can be written as UTF-8 (json may hold half a surrogate pair)."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

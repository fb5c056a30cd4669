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
from vpgtrans_core.data.conversation import Caption, Conversation
from vpgtrans_core.data.places import existing
from vpgtrans_core.data.regular import MAX_BYTES, read_regular
from vpgtrans_core.data.sample import ImageRef, InMemoryImage, Sample
from vpgtrans_core.data.strings import Strings, StringsBuilder

MAX_CHARACTERS = 20_000
"""Longest caption that is taken for one."""
CONVERSATION = -1
"""Stands for a prompt's number where a text is a conversation."""
MAX_MET = 1000
"""Different names of fields that are kept for a message."""


class Images(Protocol):
    """The images of a source by row. Picklable: it travels to data workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> ImageRef: ...


@dataclass(frozen=True)
class FileImage:
    """An image in a file below `root`. Names may not lead out of it; links that lie in it are followed, because
    whoever made the folder put them there, and what they lead to is read as an image or not at all."""

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
        keys: one unique key a sample.
        images: where each image is, sample after sample.
        texts: all captions and conversations (as json), sample after sample; `ends` says where each sample's texts end.
        prompts: the distinct prompts; `prompt_of` says which one each caption follows; `CONVERSATION` for one.
        bad: what the reader had to leave out, and the rows whose image file is not there.
        uncaptioned: images without any caption: no fault, only counted.
        imageless: texts without any image: no fault either.
        files: the files read, ``(name, bytes, modification time in ns)``.
        image_ends: where each sample's images end; None where each sample has one.
        answers: how many answers each text holds; None where all are captions, which hold one.
        absent: how many rows have an image file that is not there. They stay, so that a source whose missing files
            are fetched later is the same source; they are counted in `bad`.
        captions_by: who wrote the captions where it was not the data's author.
        awaits: how many captions each sample will get; only of a listing of pictures without any, before they are
            written (see `pictures`).
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
    image_ends: np.ndarray | None = None
    answers: np.ndarray | None = None
    absent: int = 0
    captions_by: str = ""
    awaits: int = 0

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
        texts = tuple(self._text(i) for i in _run(self.ends, row))
        images = range(row, row + 1) if self.image_ends is None else _run(self.image_ends, row)
        return Sample(self.keys[row], tuple(self.images[i] for i in images), texts)

    def _text(self, index: int) -> Caption | Conversation:
        text, prompt = self.texts[index], self.prompt_of[index]
        return Conversation.loads(text) if prompt == CONVERSATION else Caption(text, self.prompts[prompt])

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    @property
    def captions(self) -> int:
        """Number of captions; each answer of a conversation counts as one."""
        return len(self.texts) if self.answers is None else int(self.answers.sum())

    def captions_of(self, rows: np.ndarray) -> np.ndarray:
        """How many captions each of these rows has, or will get, ``[len(rows)]``."""
        if self.awaits:
            return np.full(len(rows), self.awaits, dtype=np.int64)
        ends = self.ends if self.answers is None else np.cumsum(self.answers)[self.ends - 1]
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends])
        return ends[rows] - starts[rows]

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
        if self.image_ends is not None:
            digest.update(self.image_ends.tobytes())
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
            **({"captions_by": self.captions_by} if self.captions_by else {}),
        }

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[tuple[Image.Image, Sequence[str | Caption | Conversation]]],
        name: str = "memory",
        *,
        keys: Sequence[str] | None = None,
        clean: Callable[[str], str] = keep,
    ) -> Listing:
        """Make a source of images in memory with their texts.

        Args:
            pairs: each image with its captions, as texts or as `Caption` with a prompt, or with conversations about it.
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

    Args:
        pictures: keep samples without any text, too.
    """

    def __init__(
        self, path: str, format: str, clean: Callable[[str], str], wanted: str = "", pictures: bool = False
    ) -> None:
        self.path = path
        self.pictures = pictures
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
        self._image_ends = array("q")
        self._answers = array("q")
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

    def add(self, key: str, texts: Sequence[Any], images: int = 1) -> bool:
        """Append a sample of so many images with its texts (`str`, `Caption` or `Conversation`); what is no usable text
        is skipped and counted.

        Returns:
            True when the sample is in; False when it has no usable text or its key was there before.
        """
        if not texts:
            self.uncaptioned += 1
            if not self.pictures:
                return False
        if not _sound(key):
            self.skip(repr(key), bad.BAD_ROW, "its name cannot be written as UTF-8")
            return False
        if key in self._seen:
            self.skip(key, bad.DUPLICATE_KEY)
            return False
        named = [(f"{key} caption {number + 1}", raw) for number, raw in enumerate(texts)]
        usable = [text for name, raw in named if (text := self._text(name, raw)) is not None]
        if texts and not usable:
            return False
        self.bad.good()
        self._seen.add(key)
        self._keys.append(key)
        for text in usable:
            self._append(text)
        self._ends.append(len(self._texts))
        self._image_ends.append(images + (self._image_ends[-1] if self._image_ends else 0))
        return True

    def _append(self, text: Caption | Conversation) -> None:
        if isinstance(text, Conversation):
            self._texts.append(text.dumps())
            self._prompt_of.append(CONVERSATION)
            self._answers.append(text.answers)
        else:
            self._texts.append(text.text)
            self._prompt_of.append(self._prompts.setdefault(text.prompt, len(self._prompts)))
            self._answers.append(1)

    def _text(self, name: str, raw: Any) -> Caption | Conversation | None:
        if isinstance(raw, Conversation):
            return self._conversation(name, raw)
        return self._caption(name, Caption(raw) if isinstance(raw, str) else raw)

    def _conversation(self, name: str, raw: Conversation) -> Conversation | None:
        """A conversation whose answers are cleaned, without those that are empty."""
        if not all(_sound(part) for turn in raw.turns for part in turn.content if isinstance(part, str)):
            self.skip(name, bad.BAD_TEXT, f"not a usable text: {raw!r}"[:80])
            return None
        cleaned = raw.with_answers(self.clean)
        if not cleaned.answers:
            self.skip(name, bad.EMPTY_CAPTION)
            return None
        return cleaned

    def _caption(self, name: str, raw: Any) -> Caption | None:
        if not isinstance(raw, Caption) or not _sound(raw.text) or not _sound(raw.prompt):
            self.skip(name, bad.BAD_TEXT, f"not a usable text: {raw!r}"[:80])
            return None
        text = " ".join(self.clean(raw.text).split())  # a line break ends a caption
        if not text:
            self.skip(name, bad.EMPTY_CAPTION)
            return None
        return Caption(text, raw.prompt)

    def build(self, images: Images | Sequence[ImageRef], files: Sequence[Path] = ()) -> Listing:
        """Close the listing. `images` holds the references of every True of `add`; `files` are those read."""
        wanted = self._image_ends[-1] if self._image_ends else 0
        if len(images) != wanted:
            raise ValueError(f"{len(images)} images for {len(self._keys)} samples that have {wanted}")
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
            image_ends=None if wanted == len(self._keys) else np.array(self._image_ends, dtype=np.int64),
            answers=np.array(self._answers, dtype=np.int64) if CONVERSATION in self._prompt_of else None,
            absent=self.absent,
            files=tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files),
        )


def _run(ends: np.ndarray, row: int) -> range:
    """The indices of a row's items, whose ends are given."""
    return range(int(ends[row - 1]) if row else 0, int(ends[row]))


def _sound(text: Any) -> bool:
    """Whether this is a text of bounded length that can be written as UTF-8 (json may hold half a surrogate pair)."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

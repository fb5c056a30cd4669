"""A folder of images, each with its caption in a file beside it: ``NAME.jpg`` with ``NAME.txt``, or with a
``NAME.json`` that has a caption (img2dataset's files). Folders in it are gone through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import FileImages, Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import CAPTIONS, Reading
from vpgtrans_core.data.readers.json_rows import nothing_usable
from vpgtrans_core.data.readers.member_text import MAX_TEXT_BYTES, TEXTS, caption_of
from vpgtrans_core.data.regular import read_regular
from vpgtrans_core.data.strings import StringsBuilder
from vpgtrans_core.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp")
LOOKED_AT = 10_000
"""Files that are looked at to recognise the format."""


def is_one(path: Path, pictures: bool = False) -> bool:
    """Whether a folder holds an image with a caption's file beside it, or, asked for `pictures`, any image."""
    looked = 0
    for _, files in _folders(path):
        if any(pictures or _stem(name) in files.texts for name in files.images):
            return True
        looked += files.count
        if looked > LOOKED_AT:
            return False
    return False


def read(path: Path, reading: Reading) -> Listing:
    """Make the listing, in the order of the names.

    Raises:
        DataError: no image has a caption.
    """
    fields = reading.captions(*CAPTIONS)
    wanted = f"beside NAME.jpg there must be NAME.txt, or NAME.json with one of {', '.join(fields)}"
    builder = ListingBuilder(str(path), "files", reading.clean_caption, wanted, reading.pictures)
    names = StringsBuilder()
    for folder, files in _folders(path):
        for image in files.images:
            name = (Path(folder) / image).relative_to(path).as_posix()
            texts = files.texts.get(_stem(image), [])
            captions = _captions(Path(folder), name, texts, reading, builder)
            if (captions or (reading.pictures and not texts)) and builder.add(name, captions):
                names.append(name)
    if not len(names):
        raise nothing_usable(builder, path)
    return builder.build(FileImages(str(path), names.build()))


class _Files:
    """The images of one folder, and the files with captions by their name without ending; ``txt`` comes first."""

    def __init__(self, names: list[str]) -> None:
        self.count = len(names)
        self.images = sorted(n for n in names if _ending(n) in IMAGES and not n.startswith("."))
        self.texts: dict[str, list[str]] = {}
        for ending in TEXTS:
            for name in (n for n in names if _ending(n) == ending):
                self.texts.setdefault(_stem(name), []).append(name)


def _folders(path: Path) -> Iterator[tuple[str, _Files]]:
    """Each folder below `path` once, links followed, with its files."""
    been: set[str] = set()
    for folder, inner, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in been:
            inner.clear()
            continue
        been.add(real)
        inner.sort()
        yield folder, _Files(names)


def _captions(folder: Path, key: str, files: list[str], reading: Reading, builder: ListingBuilder) -> list[Any]:
    """The captions of one image from the first file beside it that has one; what is wrong is counted."""
    if reading.pictures and not files:
        return []
    problem = (bad.MISSING_TEXT, "no caption beside it")
    for name in files:
        try:
            data = read_regular(folder / name, MAX_TEXT_BYTES)
            found, keys = caption_of(data, _ending(name), reading)
        except BadSampleError as error:
            problem = (error.kind, f"{name}: {error.detail}")
            continue
        except (OSError, DataError) as error:
            problem = (bad.UNREADABLE_FILE, f"{name}: {error}"[:120])
            continue
        if found:
            return found
        builder.meet(keys)
        problem = (bad.MISSING_TEXT, f"{name} has none of the caption's keys")
    builder.skip(key, *problem)
    return []


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()

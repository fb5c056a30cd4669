"""Small pictures on disk, and a text encoder that needs no tokenizer."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpgtrans_core.data import images
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.conversation import Caption, ImageMark, Span
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens, limited


class LetterEncoder:
    """The caption's bytes, and one number from the sample's generator so that tests see where chance comes from."""

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        return Text.of(tuple(caption.prompt.encode()), (*caption.text.encode()[:max_tokens], rng.randrange(1000)))

    def encode_spans(self, spans: Sequence[Span | ImageMark], max_tokens: int | None = None) -> Text:
        pieces = [
            ImagePlace(s.index) if isinstance(s, ImageMark) else Tokens(tuple(s.text.encode()), s.labelled)
            for s in spans
        ]
        return limited(pieces, max_tokens)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def encoded(number: int, format: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    picture(number, size).save(buffer, format)
    return buffer.getvalue()


def save_pictures(folder: Path, count: int, suffix: str = "png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.{suffix}" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(number, "PNG" if suffix == "png" else "JPEG"))
    return names


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard_members(first: int, count: int) -> list[tuple[str, bytes]]:
    return [
        member
        for number in range(first, first + count)
        for member in ((f"{number:04d}.png", encoded(number)), (f"{number:04d}.txt", f"Picture {number}.".encode()))
    ]


@pytest.fixture
def text() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture
def nlvr() -> Path:
    shared = Path(os.environ.get("VPGT_SHARED", Path(__file__).parents[3] / "shared"))
    folder = shared / "data" / "nlvr"
    if not folder.is_dir():
        pytest.skip("NLVR is not at hand")
    return folder


def read(path: Path | str, format: str | None = None, key: str | None = None) -> Listing:
    """What is listed at `path`; every picture of it opens."""
    listing = read_source(str(path), format, clean, caption_key=key)
    assert all(images.open_image(sample.image).size == (40, 30) for sample in listing)
    return listing


def said(listing: Listing) -> list[list[str]]:
    """The captions of each image."""
    return [[caption.text for caption in sample.captions] for sample in listing]


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8", newline="")
    return path

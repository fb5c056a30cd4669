"""The captions that a source wrote, on disk: a listing, one image a line, that grows while the source writes.

A line is ``{"image": name, "captions": [...], "sha": ..., "dropped": {...}}``. With the images' folder after a colon
the file is data like any other: ``--data RUN/source_captions/1.jsonl:PICTURES``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json, write_json, writing

FOLDER = "source_captions"
"""The folder of such files in a run's folder."""


@dataclass(frozen=True)
class Told:
    """What the source said of one image.

    Attributes:
        image: the name of the sample.
        captions: those that are kept; may be empty.
        sha: a hash of the image's content; empty where it could not be read, and `bad` says why.
        dropped: how many captions were dropped, by kind.
        first: the first dropped one of each kind.
    """

    image: str
    captions: list[str]
    sha: str = ""
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)


class CaptionFile:
    """The file of one listing.

    Args:
        path: of the lines; beside it lies what they depend on, with the ending ``json``.
        key: what the captions depend on besides the images: the source's files, settings, the rule.
        writes: whether this process writes.
    """

    def __init__(self, path: Path, key: dict[str, Any], *, writes: bool = True) -> None:
        self.path = path
        self.key = json.loads(json.dumps(key))
        self.writes = writes

    def read(self, images: Sequence[str]) -> list[Told]:
        """The lines that hold for these images: from the first on, as far as they are whole and name the same ones.
        What follows them is removed. Empty where the captions depend on something else."""
        if self._key() != self.key:
            self._begin()
            return []
        told, size = [], 0
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            for line, image in zip(file, images, strict=False):
                if (one := _parse(line)) is None or one.image != image:
                    break
                told.append(one)
                size += len(line)
        self._cut(size)
        return told

    def keep(self, told: Sequence[Told], total: int) -> list[Told]:
        """Remove all but the first `total` lines; return the rest of `told`."""
        if total < len(told):
            with self.path.open("rb") as file:
                self._cut(sum(len(line) for line, _ in zip(file, range(total), strict=False)))
        return list(told[:total])

    def add(self, told: Sequence[Told]) -> None:
        """Append lines, so that they survive a kill."""
        if not self.writes:
            return
        content = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in told).encode()
        with writing("captions by the source", self.path.parent, len(content)), self.path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _key(self) -> Any:
        try:
            return read_json(self.path.with_suffix(".json"))
        except ModelError:
            return None

    def _begin(self) -> None:
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            write_json(self.path.with_suffix(".json"), self.key)

    def _cut(self, size: int) -> None:
        if self.writes and self.path.exists():
            os.truncate(self.path, size)


def _parse(line: bytes) -> Told | None:
    """A whole line, or None for one that a kill cut off or that is none of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Told(**json.loads(line))
    except (ValueError, TypeError):
        return None

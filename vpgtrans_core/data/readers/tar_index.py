"""The index of one tar shard: where each image's bytes are, and its captions; nothing is extracted.

The whole archive is walked by its headers once. Damage that other readers pass over in silence (a cut file, a broken
header, an end mark in the middle) is found, because an archive must end in zeros and nothing else.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vpgtrans_core.data import bad
from vpgtrans_core.data.images import MAX_BYTES
from vpgtrans_core.data.readers.json_rows import as_list, text_field

IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")
MAX_TEXT_BYTES = 1 << 20
CAPTION_FIELDS = ("caption", "captions", "text")


@dataclass
class ShardSample:
    """One sample of a shard: the members that share a key. `problem` is the kind and detail of a bad one."""

    key: str
    offset: int = -1
    size: int = 0
    captions: list[Any] | None = None
    from_txt: bool = False
    problem: tuple[str, str] | None = None


@dataclass
class ShardIndex:
    """All that is known of one shard. `damage` says what is wrong with the archive itself, if anything is;
    `duplicates` are members that came twice, of which the first one counts."""

    path: str
    samples: list[ShardSample] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    damage: str = ""


def index_shard(path: Path) -> ShardIndex:
    """Walk one uncompressed tar file. Never raises on what is in it: damage and bad members are in the result."""
    index = ShardIndex(str(path))
    samples: dict[str, ShardSample] = {}
    try:
        with path.open("rb") as file:
            index.damage = _walk(file, path.stat().st_size, samples, index.duplicates)
    except OSError as error:
        index.damage = f"cannot be read: {error}"
    index.samples = list(samples.values())
    return index


def _walk(file: BinaryIO, size: int, samples: dict[str, ShardSample], duplicates: list[str]) -> str:
    """Note every member; return what is wrong with the archive, or an empty text."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep an object for every member
                if member.offset_data + member.size > size:
                    return f"cut off inside {member.name}"
                if not _note(file, member, samples):
                    duplicates.append(member.name)
            return _end_damage(file, tar.offset, size)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        return f"no whole uncompressed tar: {error}"


def _end_damage(file: BinaryIO, offset: int, size: int) -> str:
    """What is wrong after the last member: an archive ends in zeros."""
    if offset + tarfile.BLOCKSIZE > size:
        return "cut off: the end mark is missing"
    file.seek(offset)
    if any(file.read(tarfile.BLOCKSIZE)):
        return f"broken header at byte {offset}"
    while chunk := file.read(1 << 20):
        if any(chunk):
            return f"an end mark at byte {offset} with more data after it"
    return ""


def _note(file: BinaryIO, member: tarfile.TarInfo, samples: dict[str, ShardSample]) -> bool:
    """Take one member into its sample; False when the sample has such a member already."""
    key, _, extension = member.name.rpartition(".")
    extension = extension.lower()
    if member.isdir() or extension not in IMAGES + TEXTS:
        return True
    sample = samples.setdefault(key, ShardSample(key))
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        sample.problem = (bad.OUTSIDE_ROOT, member.name)
    elif not member.isreg() or member.issparse():
        sample.problem = (bad.BAD_ROW, f"{member.name} is a link or special member")
    elif member.size > (MAX_BYTES if extension in IMAGES else MAX_TEXT_BYTES):
        sample.problem = (bad.TOO_MANY_BYTES, f"{member.name} has {member.size} bytes")
    elif extension in TEXTS:
        return _note_text(file, member, extension, sample)
    elif sample.offset >= 0:
        return False
    else:
        sample.offset, sample.size = member.offset_data, member.size
    return True


def _note_text(file: BinaryIO, member: tarfile.TarInfo, extension: str, sample: ShardSample) -> bool:
    """Read a text member: ``txt`` is the caption and wins over the field ``caption`` of ``json``."""
    if sample.from_txt:
        return extension != "txt"
    file.seek(member.offset_data)
    data = file.read(member.size)
    try:
        text = data.decode("utf-8-sig")
        found = [text] if extension == "txt" else as_list(text_field(json.loads(text), *CAPTION_FIELDS))
    except (ValueError, RecursionError) as error:
        sample.problem = (bad.BAD_TEXT, f"{member.name}: {error}"[:120])
        return True
    if found:
        sample.captions = found
    sample.from_txt = extension == "txt"
    return True

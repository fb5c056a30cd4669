"""The index of one tar shard: where each image's bytes are, and its captions; nothing is extracted.

The whole archive is walked by its headers once. Damage that other readers pass over in silence (a cut file, a broken
header, an end mark in the middle) is found, because an archive must end in zeros and nothing else.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.captions import keep
from vpgtrans_core.data.readers.fields import Reading
from vpgtrans_core.data.readers.member_text import MAX_TEXT_BYTES, TEXTS, caption_of
from vpgtrans_core.data.regular import MAX_BYTES, open_regular, packing

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_HEADER_BYTES = 1 << 20
"""Longest name or extended header of a member."""
MAX_TAIL_BYTES = 16 << 20
"""Most zeros after an archive's end."""
MAX_MET = 1000
"""Different names of fields that are kept for a message."""


@dataclass
class ShardSample:
    """One sample of a shard: an image and its captions. `problem` is the kind and detail of a bad one."""

    key: str
    offset: int = -1
    size: int = 0
    captions: list[Any] | None = None
    problem: tuple[str, str] | None = None


@dataclass
class Member:
    """One field of a sample. `problem` counts only if the field is used."""

    offset: int
    size: int
    captions: list[Any] | None = None
    keys: list[str] = field(default_factory=list)
    problem: tuple[str, str] | None = None


@dataclass
class ShardIndex:
    """All that is known of one shard. `damage` says what is wrong with the archive itself, if anything is, `remedy`
    what to do about it; `duplicates` are members that came twice, of which the first one counts; `met` counts the
    fields."""

    path: str
    samples: list[ShardSample] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    damage: str = ""
    remedy: str = "download it again"
    met: Counter[str] = field(default_factory=Counter)


def index_shard(path: Path, reading: Reading = Reading(keep)) -> ShardIndex:
    """Walk one uncompressed tar file. Never raises on what is in it: damage and bad members are in the result."""
    index = ShardIndex(str(path))
    fields: dict[str, dict[str, Member]] = {}
    try:
        file, size = open_regular(path)
        with file:
            index.damage = _walk(file, size, fields, index, reading)
    except (OSError, BadSampleError) as error:
        index.damage = f"cannot be read: {getattr(error, 'detail', error)}"
    index.samples = [sample for key, members in fields.items() for sample in samples_of(key, members)]
    return index


class _Headers:
    """A tar file of which only headers are read: none may be longer than `MAX_HEADER_BYTES`. A member's long name
    comes as a header of its own, whose length the archive says, be it gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self.file.read(count)


def _walk(file: BinaryIO, size: int, fields: dict[str, dict[str, Member]], index: ShardIndex, reading: Reading) -> str:
    """Note every member; return what is wrong with the archive, or an empty text."""
    whole, place = 0, -1
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep an object for every member
                if member.size < 0 or member.offset_data <= place:
                    return f"a header at byte {member.offset} that leads back"
                place = member.offset_data
                lacking = member.offset_data + member.size - size
                if lacking > 0 and not member.issparse():  # the size of a sparse one is that which it unpacks to
                    return (
                        f"cut off inside {member.name}: {whole} members before it are whole, {lacking} bytes of it and "
                        "all that came after are missing"
                    )
                whole += 1
                _note(file, member, fields, index, reading)
            return _end_damage(file, tar.offset, size, whole)
    except (tarfile.TarError, ValueError, ArithmeticError, EOFError, RecursionError, LookupError) as error:
        file.seek(0)
        head = file.read(8)
        if kind := packing(head):
            index.remedy = "unpack it: in an uncompressed tar images can be read in any order"
            return f"compressed ({kind})"
        return f"no whole uncompressed tar: {error} after {whole} whole members"


def _end_damage(file: BinaryIO, offset: int, size: int, whole: int) -> str:
    """What is wrong after the last member: an archive ends in zeros."""
    if offset + tarfile.BLOCKSIZE > size:
        return f"cut off: the end mark is missing after {whole} members, and with it all that came after"
    file.seek(offset)
    if any(file.read(tarfile.BLOCKSIZE)):
        return f"broken header at byte {offset}, after {whole} members"
    if size - offset > MAX_TAIL_BYTES:
        return f"an end mark at byte {offset} with {size - offset} bytes after it"
    while chunk := file.read(1 << 20):
        if any(chunk):
            return f"an end mark at byte {offset} with more data after it"
    return ""


def split_name(name: str) -> tuple[str, str] | None:
    """A member's key and field: the key ends at the first dot of the base name. None for names that begin with a dot
    or have none."""
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return (folder + slash + stem, ending.lower()) if stem and dot and ending else None


def _note(
    file: BinaryIO, tar: tarfile.TarInfo, fields: dict[str, dict[str, Member]], index: ShardIndex, reading: Reading
) -> None:
    """Take one member into its sample."""
    parts = split_name(tar.name)
    if tar.isdir() or parts is None:
        return
    key, name = parts
    if name in index.met or len(index.met) < MAX_MET:
        index.met[name] += 1
    ending = name.rpartition(".")[2]
    if ending not in IMAGES + TEXTS:
        return
    members = fields.setdefault(key, {})
    if name in members or (name in IMAGES and any(image in members for image in IMAGES)):
        index.duplicates.append(tar.name)
        return
    members[name] = member = Member(tar.offset_data, tar.size)
    path = PurePosixPath(tar.name)
    if path.is_absolute() or ".." in path.parts:
        member.problem = (bad.OUTSIDE_ROOT, tar.name)
    elif not tar.isreg() or tar.issparse():
        member.problem = (bad.BAD_ROW, f"{tar.name} is a link or special member")
    elif tar.size > (MAX_BYTES if ending in IMAGES else MAX_TEXT_BYTES):
        member.problem = (bad.TOO_MANY_BYTES, f"{tar.name} has {tar.size} bytes")
    elif ending in TEXTS:
        _read_text(file, tar, ending, member, reading)


def _read_text(file: BinaryIO, tar: tarfile.TarInfo, ending: str, member: Member, reading: Reading) -> None:
    file.seek(tar.offset_data)
    try:
        member.captions, member.keys = caption_of(file.read(tar.size), ending, reading)
    except BadSampleError as error:
        member.problem = (error.kind, f"{tar.name}: {error.detail}")


def samples_of(key: str, members: dict[str, Member]) -> Iterator[ShardSample]:
    """The samples among the members of one key: one, or several whose fields agree up to their last dot.

    ``KEY.jpg`` with ``KEY.txt`` is the sample, whatever other fields there are (``KEY.seg.png``). Without such a pair,
    each ``KEY.X.jpg`` with ``KEY.X.txt`` is one; else the only image and the only text belong together.
    """
    groups: dict[str, dict[str, Member]] = {}
    for name, member in members.items():
        groups.setdefault(name.rpartition(".")[0], {})[name] = member
    pairs = {prefix: group for prefix, group in groups.items() if _images(group) and _texts(group)}
    if "" in pairs:
        pairs = {"": pairs[""]}
    elif not pairs:
        yield _sample(key, members)
        return
    for prefix, group in groups.items():
        rest = not prefix and not _images(group)  # a text of them all
        if prefix in pairs or ("" not in pairs and not rest):
            yield _sample(f"{key}.{prefix}" if prefix else key, group)


def _images(members: dict[str, Member]) -> list[str]:
    return [name for name in members if name.rpartition(".")[2] in IMAGES]


def _texts(members: dict[str, Member]) -> list[str]:
    """The fields with text, ``txt`` before ``json``."""
    return [name for ending in TEXTS for name in members if name.rpartition(".")[2] == ending]


def _sample(key: str, members: dict[str, Member]) -> ShardSample:
    """One sample of these members, or what it lacks."""
    images = _chosen(_images(members))
    texts = [members[name] for name in _chosen(_texts(members))]
    speaking = [member for member in texts if member.captions or member.problem]
    sample = ShardSample(key)
    if len(images) > 1:
        sample.problem = (bad.BAD_ROW, f"several images, and it is unclear which to use: {', '.join(images[:5])}")
    elif problems := [m.problem for m in [members[name] for name in images] + speaking[:1] if m.problem]:
        sample.problem = problems[0]
    elif images:
        image = members[images[0]]
        sample.offset, sample.size = image.offset, image.size
        sample.captions = speaking[0].captions if speaking else None
        if sample.captions is None:
            keys = [k for m in texts for k in m.keys]
            sample.problem = (bad.MISSING_TEXT, f"its json holds {', '.join(keys[:8])}" if keys else "")
    return sample


def _chosen(names: list[str]) -> list[str]:
    """The plain fields when there are some, else all."""
    return [name for name in names if "." not in name] or names

"""Webdataset shards: members that belong together, damage, patterns and manifests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data.conftest import encoded, shard_members, write_tar
from tests.data.formats import (
    read,
    tars,
)
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.readers import shard_manifest
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.data.readers.shard_paths import expand, shards
from vpgtrans_core.errors import DataError, UnsafeInput, VpgtError


@pytest.mark.parametrize("path", ["pipe:cat a.tar", "https://example.org/a.tar", "s3://bucket/{0..3}.tar"])
def test_only_files_are_read(path: str) -> None:
    with pytest.raises(UnsafeInput):
        read(path)


def test_ungrouped_and_dotted_members_find_each_other(tmp_path: Path) -> None:
    members = shard_members(0, 3)
    members = members[::2] + members[1::2] + [("a.b.c.png", encoded(9)), ("a.b.c.json", b'{"caption": "dots"}')]
    listing = read(write_tar(tmp_path / "a.tar", members))
    assert [s.captions[0].text for s in listing] == ["picture 0", "picture 1", "picture 2", "dots"]


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ([("x.png", encoded(1))], bad.MISSING_TEXT),
        ([("x.png", encoded(1)), ("x.json", b'{"url": "a"}')], bad.MISSING_TEXT),
        ([("x.txt", b"a")], bad.MISSING_IMAGE),
        ([("x.png", encoded(1)), ("x.txt", b"")], bad.EMPTY_CAPTION),
        ([("x.png", encoded(1)), ("x.txt", b"\xff\xfe")], bad.BAD_TEXT),
        ([("x.png", encoded(1)), ("x.json", b"{")], bad.BAD_TEXT),
        ([("x.png", encoded(1)), ("x.txt", b"a" * (2 << 20))], bad.TOO_MANY_BYTES),
        ([("../x.png", encoded(1)), ("../x.txt", b"a")], bad.OUTSIDE_ROOT),
        ([("/x.png", encoded(1)), ("/x.txt", b"a")], bad.OUTSIDE_ROOT),
        ([("0000.png", encoded(1))], bad.DUPLICATE_KEY),
    ],
)
def test_bad_members_are_counted_once(members: list, kind: str, tmp_path: Path) -> None:
    listing = read(write_tar(tmp_path / "a.tar", shard_members(0, 4) + members))
    assert len(listing) == 4
    assert listing.bad.counts == Counter({kind: 1})


def test_json_and_txt_of_one_sample_are_one_caption(tmp_path: Path) -> None:
    for order in (1, -1):
        texts = [("x.txt", b"from txt"), ("x.json", b'{"caption": "from json"}')][::order]
        listing = read(write_tar(tmp_path / "a.tar", [("x.png", encoded(1)), *texts]))
        assert [c.text for c in listing[0].captions] == ["from txt"]


def _cut_at_member(data: bytes) -> bytes:
    return data[: 512 + 512 * -(-len(encoded(0)) // 512)]


DAMAGE = {
    "cut at a member": (_cut_at_member, "end mark is missing"),
    "cut in a member": (lambda d: d[: len(d) // 2], "cut off inside"),
    "cut in a header": (lambda d: _cut_at_member(d) + d[:200], "end mark is missing|broken header|no whole"),
    "broken header": (lambda d: _cut_at_member(d) + b"\xff" * 512 + d[len(_cut_at_member(d)) + 512 :], "broken header"),
    "early end mark": (lambda d: _cut_at_member(d) + bytes(1024) + d[len(_cut_at_member(d)) :], "end mark at byte"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_that_other_readers_pass_over_is_seen(name: str, tmp_path: Path) -> None:
    folder = tars(tmp_path / "shards")
    hurt, message = DAMAGE[name]
    victim = folder / "s-01.tar"
    victim.write_bytes(hurt(victim.read_bytes()))
    listing = read(folder)
    lost = 30 - len(listing)
    assert lost > 0
    named = [sample for sample in listing.bad.named if sample.kind == bad.DAMAGED_SHARD]
    assert [sample.key for sample in named] == ["s-01.tar"]
    import re

    assert re.search(message, named[0].detail)
    assert listing.bad.counts[bad.DAMAGED_SHARD] >= lost - 1
    with pytest.raises(DataError, match="damaged shard"):
        open_data([folder])


def test_one_damaged_shard_of_many_is_recorded_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        write_tar(folder / f"{number:02d}.tar", shard_members(10 * number, 10))
    data = (folder / "07.tar").read_bytes()
    (folder / "07.tar").write_bytes(data[: -(10240 + 512)])
    listing = open_data([folder], bounds=Bounds(ratio=0.05)).listings[0]
    assert len(listing) >= 190 and listing.bad.counts[bad.DAMAGED_SHARD] >= 1


def test_the_manifest_sees_every_flip_cut_and_loss(tmp_path: Path) -> None:
    import random

    folder = tars(tmp_path / "shards")
    shard_manifest.write_manifest(shards(str(folder)))
    assert not read_source(str(folder), None, clean, hashes=True).bad.total
    victim = folder / "s-01.tar"
    whole = victim.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        victim.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert read_source(str(folder), None, clean, hashes=True).bad.counts[bad.DAMAGED_SHARD]
        victim.write_bytes(whole[:place])
        assert read(folder).bad.counts[bad.DAMAGED_SHARD]
    victim.unlink()
    assert read(folder).bad.counts[bad.DAMAGED_SHARD] == 10
    (folder / shard_manifest.NAME).write_text('{"shards": {"a": 3}}')
    with pytest.raises(DataError, match="not a manifest"):
        read(folder)


def test_patterns_name_shards(tmp_path: Path) -> None:
    folder = tars(tmp_path / "shards")
    assert len(read(f"{folder}/s-{{00..02}}.tar")) == 30
    assert len(read(f"{folder}/s-{{00,02}}.tar")) == 20
    assert len(read(f"{folder}/s-0[12].tar")) == 20
    assert len(read(folder / "s-00.tar")) == 10
    assert expand("{8..11}-{a,b}") == ["8-a", "8-b", "9-a", "9-b", "10-a", "10-b", "11-a", "11-b"]
    for wrong in (f"{folder}/s-{{00..03}}.tar", f"{folder}/x-*.tar", f"{folder}/{{0..99999999999}}.tar"):
        with pytest.raises(VpgtError):
            read(wrong)


def test_a_webdataset_written_by_its_own_library_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"k{number}", "jpg": encoded(number, "JPEG"), "json": {"caption": f"n {number}"}})
    assert [s.captions[0].text for s in read(tmp_path / "a.tar")] == ["n 0", "n 1", "n 2"]

"""Files that would hang a reader or take its memory: each is refused at once, and nothing of it is held."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.data.conftest import encoded, save_pictures, shard_members, write_tar
from vpgtrans_core.data import bad, regular
from vpgtrans_core.data.bad import BadSampleError, Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.images import open_image
from vpgtrans_core.data.listing import FileImage
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.data.readers.tar_index import index_shard
from vpgtrans_core.data.regular import read_text
from vpgtrans_core.errors import DataError, VpgtError


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(8 << 30)
    return path


SPECIAL = {"pipe": pipe, "socket": listening, "device": device, "sparse": sparse}
pytestmark = pytest.mark.timeout(60)  # a hang is what these tests are about


@pytest.fixture(autouse=True)
def little_memory():
    """What is read of these files must fit beside what the tests take already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", SPECIAL)
def test_such_a_picture_is_a_bad_sample(kind: str, tmp_path: Path) -> None:
    SPECIAL[kind](tmp_path / "a.jpg")
    with pytest.raises(BadSampleError) as caught:
        open_image(FileImage(str(tmp_path), "a.jpg"))
    assert caught.value.kind in (bad.UNREADABLE_FILE, bad.TOO_MANY_BYTES)
    assert kind == "sparse" or "not a regular file" in caught.value.detail or kind == "socket"


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.csv", "a.json.gz", "a.tar", "a.txt", "a.tsv", "metadata.jsonl", "metadata.csv"]
)
def test_such_data_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    SPECIAL[kind](tmp_path / name)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(DataError) as caught:
            read_source(str(path), None, clean)
        assert caught.value.hint


@pytest.mark.parametrize("kind", SPECIAL)
def test_such_a_file_beside_good_ones_costs_itself_alone(kind: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "good.tar", shard_members(0, 5))
    SPECIAL[kind](tmp_path / "shards" / "other.tar")
    listing = read_source(str(tmp_path / "shards"), None, clean)
    assert len(listing) == 5 and set(listing.bad.counts) == {bad.DAMAGED_SHARD}
    save_pictures(tmp_path / "files", 5)
    for number in range(5):
        (tmp_path / "files" / f"{number:03d}.txt").write_text("words")
    (tmp_path / "files" / "002.txt").unlink()
    SPECIAL[kind](tmp_path / "files" / "002.txt")
    listing = read_source(str(tmp_path / "files"), "files", clean)
    assert len(listing) == 4 and listing.bad.total == 1


# --- tar headers ---


def header(name: str, type: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = type, size
    return info.tobuf(tarfile.GNU_FORMAT)


def grown(path: Path, head: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


@pytest.mark.parametrize("type", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read(type: bytes, tmp_path: Path) -> None:
    path = grown(tmp_path / "a.tar", header("x", type, 3 << 30), 4 << 30)
    index = index_shard(path)
    assert f"a header of {3 << 30} bytes" in index.damage and not index.samples


def test_headers_in_headers_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("x", tarfile.XHDTYPE, 0) * 5000)
    assert index_shard(path).damage


def test_a_header_that_leads_back_does_not_go_round(tmp_path: Path) -> None:
    data = bytearray(header("x.jpg", tarfile.REGTYPE, 0))
    data[124:136] = b"\xff" * 10 + b"\xfc\x00"  # a size of -1024
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(data) * 4)
    assert index_shard(path).damage


def test_a_member_larger_than_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = write_tar(path, shard_members(0, 2)).read_bytes()
    path.write_bytes(whole[:-10240] if whole.endswith(bytes(10240)) else whole)
    path.write_bytes(path.read_bytes().rstrip(b"\0").ljust(4096, b"\0")[:4096] + header("9.jpg", b"0", 1 << 40))
    assert index_shard(path).damage


def test_a_lone_cut_shard_says_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tar(tmp_path / "a.tar", shard_members(0, 10))
    path.write_bytes(path.read_bytes()[: 11 * 4608 + 700])
    listing = open_data([path], bounds=Bounds(0.5, 10)).listings[0]
    (damaged,) = [sample for sample in listing.bad.named if sample.kind == bad.DAMAGED_SHARD]
    assert "cut off inside" in damaged.detail and "members before it are whole" in damaged.detail
    assert "bytes of it and all that came after are missing" in damaged.detail
    assert "the number of lost samples is unknown" in caplog.text and "download it again" in caplog.text


# --- packed files ---


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular, "FREE_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "a.json.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(64):
            file.write(b" " * (1 << 20))
    with pytest.raises(DataError, match="unpacks to more than"):
        read_text(path)
    with gzip.open(path, "wb") as file:
        file.write(b'[{"image": "a.jpg"}]')
    assert read_text(path).startswith("[")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot read"):
        read_text(path)


def test_zero_bytes_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(bytes(5000))
    with pytest.raises(DataError, match="zero bytes"):
        read_source(str(tmp_path / "a.json"), None, clean)


def test_the_command_refuses_a_pipe(tmp_path: Path) -> None:
    """As users meet it: ``--data <(command)``."""
    read, write = os.pipe()
    os.write(write, json.dumps([{"image": "a.jpg", "caption": "b"}]).encode())
    os.close(write)
    code = f"from vpgtrans_core.data.data import open_data; open_data(['/dev/fd/{read}'])"
    done = subprocess.run([sys.executable, "-c", code], pass_fds=[read], capture_output=True, text=True)
    os.close(read)
    assert done.returncode and "not a regular file but a pipe" in done.stderr and "to a file first" in done.stderr


def test_nothing_but_our_own_errors_comes_out(tmp_path: Path) -> None:
    """Noise under every name that is read."""
    import random

    rng = random.Random(0)
    starts = [
        b"",
        b"{",
        b"[",
        b"\x1f\x8b\x08",
        b"PAR1",
        b"image,caption\n",
        b"\xef\xbb\xbf",
        encoded(0)[:40],
        b"\xff\xfe",
    ]
    for number, start in enumerate(starts):
        for name in ("a.json", "a.jsonl", "a.json.gz", "a.csv", "a.tsv", "a.txt", "a.tar", "metadata.csv"):
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            (folder / name).write_bytes(start + rng.randbytes(rng.choice([0, 100, 3000])))
            with pytest.raises(VpgtError):
                read_source(str(folder), None, clean)

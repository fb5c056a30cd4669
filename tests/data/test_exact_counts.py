"""200 bad samples of 20 kinds: each is counted once and named, with 1 and 2 processes, with 0 and 2 workers."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing

from tests.data.conftest import LetterEncoder, encoded, picture, write_tar
from tests.data.test_images import bomb, saved
from tests.data.test_modes import with_segment
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.data import Data, open_data
from vpgtrans_core.data.loader import Loader, ReadOptions, StepReader
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.errors import DataError

EACH = 10
GOOD = 60


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:300] + b"\xff\xff\xff" + data[303:]


BYTES = {
    "empty": (b"", bad.EMPTY_FILE),
    "text": (b"404 not found", bad.NO_IMAGE),
    "html": (b"<html>" * 50, bad.NO_IMAGE),
    "gif": (saved(picture(0).convert("P"), "GIF"), bad.NO_IMAGE),
    "packed": (gzip.compress(encoded(0)), bad.NO_IMAGE),
    "bomb": (bomb(), bad.TOO_MANY_PIXELS),
    "cut jpeg": (cut(encoded(0, "JPEG", (200, 200))), bad.TRUNCATED_IMAGE),
    "cut png": (cut(encoded(0, "PNG", (200, 200))), bad.TRUNCATED_IMAGE),
    "flipped png": (flipped(encoded(0)), bad.BROKEN_IMAGE),
    "cut after damaged exif": (cut(with_segment(0xE1, b"Exif\0\0noise")), bad.TRUNCATED_IMAGE),
}
"""Ways in which a file is no picture: found when it is read."""


def in_files(folder: Path, expected: Counter[str]) -> Path:
    """12 kinds of pictures in files, and 3 of rows."""
    images = folder / "images"
    images.mkdir(parents=True)
    rows: list[Any] = []
    for number in range(GOOD):
        (images / f"good-{number}.png").write_bytes(encoded(number % 5))
        rows.append({"image": f"good-{number}.png", "caption": "fine"})
    (folder / "outside.png").write_bytes(encoded(0))
    for number in range(EACH):
        for name, (data, kind) in BYTES.items():
            (images / f"{name}-{number}").write_bytes(data)
            rows.append({"image": f"{name}-{number}", "caption": "x"})
            expected[kind] += 1
        os.mkfifo(images / f"pipe-{number}")
        rows.append({"image": f"pipe-{number}", "caption": "x"})
        expected[bad.UNREADABLE_FILE] += 1
        with (images / f"sparse-{number}").open("wb") as file:
            file.truncate(1 << 33)
        rows.append({"image": f"sparse-{number}", "caption": "x"})
        expected[bad.TOO_MANY_BYTES] += 1
        rows.append({"image": f"missing-{number}.png", "caption": "x"})
        expected[bad.MISSING_FILE] += 1
        rows.append({"image": f"../../elsewhere-{number}.png", "caption": "x"})
        expected[bad.OUTSIDE_ROOT] += 1
        rows.append({"caption": "of no picture"})
        expected[bad.BAD_ROW] += 1
    (folder / "list.json").write_text(json.dumps(rows))
    return folder / "list.json"


def in_shards(folder: Path, expected: Counter[str]) -> Path:
    """5 kinds of members."""
    members = [m for i in range(GOOD) for m in ((f"good-{i}.png", encoded(i % 5)), (f"good-{i}.txt", b"fine"))]
    for number in range(EACH):
        members += [(f"silent-{number}.png", encoded(0)), (f"silent-{number}.json", b'{"url": "x"}')]
        members += [(f"alone-{number}.txt", b"x")]
        members += [(f"letters-{number}.png", encoded(0)), (f"letters-{number}.txt", b"\xff\xfe")]
        members += [(f"nothing-{number}.png", encoded(0)), (f"nothing-{number}.txt", b" ... ")]
        members += [(f"good-{number}.png", encoded(0))]
    expected += Counter(
        {
            kind: EACH
            for kind in (bad.MISSING_TEXT, bad.MISSING_IMAGE, bad.BAD_TEXT, bad.EMPTY_CAPTION, bad.DUPLICATE_KEY)
        }
    )
    return write_tar(folder / "a.tar", members)


def opened(folder: Path, bounds: Bounds) -> Data:
    return open_data([folder / "list.json", folder / "a.tar"], bounds=bounds)


def epoch(folder: Path, bounds: Bounds, workers: int, rank: int = 0, gather: Any = None) -> tuple[dict[str, int], Any]:
    """Read an epoch and a half, so that some samples are met twice; give the counts and the names."""
    data = opened(folder, bounds)
    reader = StepReader(data, LetterEncoder(), ReadOptions(Preprocessing(16)))
    order = data.order(0, 16)
    more = {"gather": gather, "rank": rank, "world": 2} if gather else {}
    loader = Loader(reader, order, start=0, stop=-(-data.images * 3 // (16 * 2)), workers=workers, **more)
    for _ in loader:
        pass
    logs = [listing.all_bad(log) for listing, log in zip(data.listings, loader.bad, strict=True)]
    named = sorted(str(sample) for log in logs for sample in log.named)
    return dict(data.skipped(loader.bad)), (named, [log.longest_run for log in loader.bad])


def one_of_two(rank: int, folder: Path, ratio: float, workers: int) -> None:
    """What each of two processes does; writes what it counted, or the error that it stopped with."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    from vpgtrans_core.processes.heartbeat import WatchedAccelerator
    from vpgtrans_core.run.feed import bad_of_all

    accelerator = WatchedAccelerator(cpu=True)
    assert accelerator.num_processes == 2
    try:
        result: Any = epoch(folder, Bounds(ratio, 10_000), workers, rank, bad_of_all(accelerator))
    except DataError as error:
        result = error.message
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))
    accelerator.end_training()


def with_two_processes(folder: Path, ratio: float, workers: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, (folder, ratio, workers), nprocs=2)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Counter[str]]:
    expected: Counter[str] = Counter()
    in_files(tmp_path, expected)
    in_shards(tmp_path, expected)
    assert expected.total() == 200
    return tmp_path, expected


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_counts_each_once(workers: int, world: tuple[Path, Counter[str]]) -> None:
    folder, expected = world
    counts, (named, _) = epoch(folder, Bounds(1.0, 10_000), workers)
    assert counts == expected
    assert len(named) == len(set(named)) == 200


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_count_what_one_counts(
    workers: int, world: tuple[Path, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = world
    alone = json.loads(json.dumps(epoch(folder, Bounds(1.0, 10_000), 0)))
    both = with_two_processes(folder, 1.0, workers, monkeypatch)
    assert alone[0] == expected and both == [alone, alone]


def test_two_processes_stop_together(world: tuple[Path, Counter[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound lies above what either of them meets alone."""
    folder, _ = world
    messages = with_two_processes(folder, 0.5, 0, monkeypatch)
    assert messages[0] == messages[1] and "more than 0.5 of them" in messages[0]


def test_missing_files_and_bad_rows_are_known_before_the_first_step(world: tuple[Path, Counter[str]]) -> None:
    folder, _ = world
    files, shard = opened(folder, Bounds(1.0, 10_000)).listings
    assert files.bad.counts == {bad.MISSING_FILE: EACH, bad.OUTSIDE_ROOT: EACH, bad.BAD_ROW: EACH}
    assert files.samples == GOOD + 15 * EACH and shard.bad.total == 5 * EACH

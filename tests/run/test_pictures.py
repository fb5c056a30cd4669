"""Pictures that are exchanged under their names: noticed on resume and at the end of a run."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.run.test_folder import Told
from tests.run.test_resume import digest, settings
from vpgtrans_core.data.listing import FileImage
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.run import pictures
from vpgtrans_core.run.pictures import Pictures, compare, keep, kept
from vpgtrans_core.run.pipeline import transfer

pytestmark = pytest.mark.usefixtures("one_thread")


def another(run: Path) -> None:
    """Another picture, of another size in bytes."""
    Image.effect_noise((60, 50), 90).save(run / "data/images/7.png")


def of_the_same_size(run: Path) -> None:
    path = run / "data/images/7.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def copied(run: Path) -> None:
    """As a copy to another disk leaves them: other times, the same bytes."""
    for path in (run / "data/images").iterdir():
        os.utime(path, ns=(2, 2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another, r"1 of 24 pictures of .*captions.json were replaced, for instance 7.png had \d+ bytes, has \d+ now"),
        (of_the_same_size, r"1 of 24 pictures of .*captions.json hold other bytes, for instance 7.png"),
    ],
)
def test_an_exchanged_picture_is_refused_and_accepted_when_told(run: Path, change: Callable, told: str) -> None:
    change(run)
    with pytest.raises(ConfigError, match=told) as caught:
        transfer(out=str(run / "out"), resume=True)
    assert "--accept-changes" in caught.value.hint
    result = transfer(out=str(run / "out"), resume=True, accept_changes=True, max_bad_ratio=0.5)
    (accepted,) = result.record["accepted_changes"]
    assert len(accepted["changes"]) == 1 and "pictures of" in accepted["changes"][0]


def test_a_copy_is_the_same(run: Path, whole: str) -> None:
    copied(run)
    told = Told()
    transfer(out=str(run / "out"), resume=True, reporter=told)
    assert digest(run / "out") == whole
    assert not any("pictures of" in text for text in told.warnings)
    assert not (run / "out/checkpoints").exists()


def test_pictures_that_come_later_are_no_change(run: Path) -> None:
    """A file that could not be downloaded before is counted as missing until it is there."""
    (run / "data/images/7.png").rename(run / "7.png")
    with_one_missing = transfer(out=str(run / "out"), resume=True, max_bad_ratio=0.5)
    assert "accepted_changes" not in with_one_missing.record


def test_an_exchange_while_the_run_is_at_work_is_told(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vpgtrans_core.train.stage import StageRunner

    (tmp_path / "data").symlink_to(world / "data", target_is_directory=True)
    (tmp_path / "copy/images").mkdir(parents=True)
    for path in [*(world / "data/images").glob("*.png"), world / "data/captions.json"]:
        place = "images" if path.suffix == ".png" else "."
        (tmp_path / "copy" / place / path.name).write_bytes(path.read_bytes())
    real = StageRunner.run

    def exchange(self: StageRunner):
        Image.effect_noise((70, 50), 90).save(tmp_path / "copy/images/3.png")
        return real(self)

    monkeypatch.setattr(StageRunner, "run", exchange)
    told = Told()
    values = settings(world, tmp_path / "out", data=[str(tmp_path / "copy/captions.json")])
    result = transfer(**values, reporter=told)
    (line,) = result.record["pictures_changed"]
    assert "1 of 24 pictures" in line and "3.png had" in line
    assert f"while the run was at work: {line}" in told.warnings


def of_many(times: np.ndarray, hashes: np.ndarray) -> Pictures:
    files = [FileImage("/x", f"{number}.jpg") for number in range(len(times))]
    return Pictures("x", files, np.zeros(32, np.uint8), np.full(len(times), 9), times, hashes)


def test_of_many_pictures_some_are_hashed() -> None:
    count = 10_000
    hashes = np.arange(1, pictures.HASHED + 1, dtype=np.uint64)
    before = of_many(np.zeros(count, np.int64), hashes)
    assert compare([before], [of_many(np.ones(count, np.int64), hashes)]) == pictures.Difference([], [])
    other = hashes.copy()
    other[3] += 1
    (change,) = compare([before], [of_many(np.ones(count, np.int64), other)]).changes
    assert "1 of 10000 pictures of x hold other bytes" in change
    few = np.zeros(count, np.int64)
    few[[50, 51]] = 1
    difference = compare([before], [of_many(few, hashes)])
    assert (
        not difference.changes and "2 of 10000 pictures of x were written again with the same" in difference.remarks[0]
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100, b"\xff" * 8 + b"{}", None])
def test_a_damaged_list_says_nothing(content: bytes | None, tmp_path: Path) -> None:
    hashes = np.arange(1, 4, dtype=np.uint64)
    keep([of_many(np.zeros(3, np.int64), hashes)], tmp_path)
    (read,) = kept(tmp_path) or []
    assert np.array_equal(read.hashes, hashes) and np.array_equal(read.sizes, [9, 9, 9])
    path = tmp_path / pictures.FILE
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    assert kept(tmp_path) is None

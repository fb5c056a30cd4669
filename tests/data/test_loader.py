"""Steps read here and in workers are the same; bad samples, dead and hung workers, other processes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.data.conftest import LetterEncoder, picture, save_pictures, shard_members, write_tar
from vpgtrans_core.data import bad, images, workers
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.data import Data, open_data
from vpgtrans_core.data.images import Augmentation, normalize, pixels
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.loader import Loader, ReadOptions, StepData, StepReader
from vpgtrans_core.data.order import Draw
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import DataError
from vpgtrans_core.llm.text import Text
from vpgtrans_core.vpg.adapter import Preprocessing

SIZE = Preprocessing(16)


def in_memory(count: int = 40, captions: int = 3) -> Data:
    pairs = [(picture(i), [f"picture {i} caption {c}" for c in range(captions)]) for i in range(count)]
    return open_data([Listing.from_pairs(pairs)])


def from_json(folder: Path, count: int = 40, broken: tuple[int, ...] = (), bounds: Bounds = Bounds(0.5, 100)) -> Data:
    names = save_pictures(folder / "images", count)
    for number in broken:
        (folder / "images" / names[number]).write_bytes(b"no picture")
    rows = [{"image": name, "caption": [f"{name} {c}" for c in range(2)]} for name in names]
    (folder / "list.json").write_text(json.dumps(rows))
    return open_data([folder / "list.json"], bounds=bounds)


def from_tar(folder: Path) -> Data:
    return open_data([write_tar(folder / "a.tar", shard_members(0, 40))])


def steps(
    data: Data, text: LetterEncoder, *, images: int = 8, stop: int = 12, start: int = 0, **options
) -> list[StepData]:
    mine = {key: options.pop(key) for key in ("workers", "rank", "world", "timeout") if key in options}
    reader = StepReader(data, text, ReadOptions(SIZE, **options))
    return list(Loader(reader, data.order(0, images), start=start, stop=stop, **mine))


def same(one: list[StepData], other: list[StepData]) -> bool:
    return len(one) == len(other) and all(
        (a.step, a.draws, a.keys, a.texts, a.bad) == (b.step, b.draws, b.keys, b.texts, b.bad)
        and torch.equal(a.visual, b.visual)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("make", [from_json, from_tar])
def test_workers_and_restarts_change_nothing(make, tmp_path: Path, text: LetterEncoder) -> None:
    data = make(tmp_path)
    options = {"augmentation": Augmentation(), "captions_per_image": 1}
    here = steps(data, text, **options)
    assert same(here, steps(data, text, workers=2, **options))
    assert same(here[7:], steps(data, text, start=7, **options))
    assert same(here[7:], steps(data, text, start=7, workers=2, **options))
    assert not same(here, steps(data, text, seed=1, **options))


def test_a_step_holds_pixels_and_texts(text: LetterEncoder) -> None:
    data = in_memory()
    step = steps(data, text)[0]
    assert step.visual.shape == (8, 3, 16, 16) and step.visual.dtype == torch.uint8 and step.visual_kind == "pixels"
    assert [len(texts) for texts in step.texts] == [3] * 8 and len(step) == 8
    assert step.keys == [data.sample(d.source, d.row).key for d in step.draws]
    assert torch.equal(step.visual[0], pixels(picture(step.draws[0].row), SIZE))
    assert normalize(step.visual, SIZE).shape == step.visual.shape
    assert step.worked > 0 and step.waited > 0


def test_the_processes_of_a_run_share_each_step(text: LetterEncoder) -> None:
    data = in_memory()
    whole = steps(data, text)
    parts = [steps(data, text, rank=rank, world=3) for rank in range(3)]
    for number, step in enumerate(whole):
        assert sorted(k for part in parts for k in part[number].keys) == sorted(step.keys)
        assert parts[1][number].keys == step.keys[1::3]
    lonely = steps(data, text, images=1, rank=1, world=2)
    assert all(len(step) == 0 and step.visual.shape[0] == 0 for step in lonely)


def test_views_are_new_each_visit_or_as_many_as_asked(text: LetterEncoder) -> None:
    reader = {
        views: StepReader(in_memory(), text, ReadOptions(SIZE, augmentation=Augmentation(), views=views))
        for views in (None, 2)
    }
    seen = {views: [r.read(0, [Draw(0, 3, visit)]).visual for visit in range(4)] for views, r in reader.items()}
    assert not any(torch.equal(a, b) for i, a in enumerate(seen[None]) for b in seen[None][:i])
    assert torch.equal(seen[2][0], seen[2][2]) and torch.equal(seen[2][1], seen[2][3])
    assert not torch.equal(seen[2][0], seen[2][1])
    assert torch.equal(seen[2][1], seen[None][1])


def test_captions_take_turns(text: LetterEncoder) -> None:
    reader = StepReader(in_memory(captions=5), text, ReadOptions(SIZE, captions_per_image=2))
    said = [text_.target[:-1] for visit in range(5) for text_ in reader.read(0, [Draw(0, 1, visit)]).texts[0]]
    assert len(said) == 10 and {said.count(one) for one in said} == {2}


class Features:
    """A cache of some images' outputs."""

    kind = "outputs"

    def __init__(self, rows: set[int]) -> None:
        self.rows = rows

    def get(self, source: int, row: int, view: int, image: int = 0) -> torch.Tensor | None:
        return torch.full((4, 6), float(row)) if row in self.rows else None


def test_features_take_the_place_of_decoding(tmp_path: Path, text: LetterEncoder) -> None:
    data = from_json(tmp_path, 10, broken=(3,))
    draws = [Draw(0, row, 0) for row in range(10)]
    options = ReadOptions(SIZE)
    whole = StepReader(data, text, options, Features(set(range(10)))).read(0, draws)
    assert whole.visual.shape == (10, 4, 6) and whole.visual_kind == "outputs" and not whole.bad
    without_bad = StepReader(data, text, options, Features(set(range(10)) - {3})).read(0, draws)
    assert without_bad.visual_kind == "outputs" and len(without_bad) == 9 and len(without_bad.bad) == 1
    partly = StepReader(data, text, options, Features({1, 2})).read(0, draws)
    assert partly.visual_kind == "pixels" and len(partly) == 9
    nothing = StepReader(data, text, options, Features(set())).read(0, draws[3:4])
    assert len(nothing) == 0 and nothing.visual_kind == "pixels"


def test_each_image_is_decoded_once(tmp_path: Path, text: LetterEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some of a step's images are in the cache and some are not."""
    opened: list[str] = []
    real = images.open_image
    monkeypatch.setattr(images, "open_image", lambda ref: opened.append(ref.name) or real(ref))
    draws = [Draw(0, row, 0) for row in range(6)]
    read = StepReader(from_json(tmp_path, 6), text, ReadOptions(SIZE), Features({1, 4})).read(0, draws)
    assert len(read) == 6 and sorted(opened) == sorted(set(opened)) and len(opened) == 6
    assert torch.equal(read.visual, StepReader(from_json(tmp_path, 6), text, ReadOptions(SIZE)).read(0, draws).visual)


# --- bad samples ---


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_of_the_same_batch(workers: int, tmp_path: Path, text: LetterEncoder) -> None:
    whole = steps(from_json(tmp_path / "whole"), text, augmentation=Augmentation())
    data = from_json(tmp_path / "broken", broken=(5, 17))
    reader = StepReader(data, text, ReadOptions(SIZE, augmentation=Augmentation()))
    source = Loader(reader, data.order(0, 8), start=0, stop=12, workers=workers)
    hurt = list(source)
    for one, other in zip(whole, hurt, strict=True):
        kept = [i for i, draw in enumerate(one.draws) if draw.row not in (5, 17)]
        assert other.keys == [one.keys[i] for i in kept]
        assert other.texts == [one.texts[i] for i in kept]
        assert torch.equal(other.visual, one.visual[kept])
    assert source.bad[0].counts == {bad.NO_IMAGE: 2}
    assert sorted(sample.key for sample in source.bad[0].named) == ["005.png", "017.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_stop_the_run_with_the_list(workers: int, tmp_path: Path, text: LetterEncoder) -> None:
    data = from_json(tmp_path, 60, broken=tuple(range(0, 60, 3)), bounds=Bounds(0.1, 100))
    with pytest.raises(DataError, match=r"of 60 samples are bad, more than 0.1 of them: .* x no image") as caught:
        steps(data, text, workers=workers)
    assert ".png: no image" in caught.value.message


def test_a_folder_without_its_images_stops_after_a_run_of_bad_ones(tmp_path: Path, text: LetterEncoder) -> None:
    data = from_json(tmp_path, 60, bounds=Bounds(1.0, 10))
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="11 bad samples in a row"):
        steps(data, text, images=1, stop=60)


def test_scattered_bad_images_are_not_in_a_row(tmp_path: Path, text: LetterEncoder) -> None:
    data = from_json(tmp_path, 60, broken=tuple(range(0, 60, 2)), bounds=Bounds(1.0, 12))
    assert len(steps(data, text, images=60, stop=1)[0]) == 30


def test_what_the_reader_skipped_counts_too(tmp_path: Path, text: LetterEncoder) -> None:
    data = from_json(tmp_path, 50, broken=(7,), bounds=Bounds(0.02, 100))
    data.listings[0].bad.bad(bad.BadSample("x", bad.EMPTY_CAPTION))
    with pytest.raises(DataError, match="2 of 51"):
        steps(data, text)


def test_the_count_of_bad_samples_survives_a_resume() -> None:
    first = bad.BadLog()
    for number in range(3):
        first.bad(bad.BadSample(f"k{number}", bad.NO_IMAGE, "x"))
    second = bad.BadLog()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for log in (first, second):
        log.bad(bad.BadSample("k1", bad.NO_IMAGE, "x"))
        log.bad(bad.BadSample("k9", bad.MISSING_FILE))
    assert first == second and second.total == 4 and second.longest_run == 5


# --- workers that fail ---


class Deadly(LetterEncoder):
    """Kills its process at the picture that it is told, as long as a file says so."""

    def __init__(self, folder: Path, times: int, hang: bool = False) -> None:
        self.folder, self.times, self.hang = folder, times, hang
        self.main = os.getpid()

    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        if caption.text.startswith("picture 13 ") and os.getpid() != self.main:
            deaths = len(list(self.folder.iterdir()))
            if deaths < self.times:
                (self.folder / str(deaths)).touch()
                time.sleep(600 if self.hang else 0)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(caption, max_tokens, rng)


@pytest.fixture
def deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.3)
    (tmp_path / "deaths").mkdir()
    return tmp_path / "deaths"


@pytest.mark.parametrize("hang", [False, True])
def test_a_lost_worker_is_replaced_and_nothing_changes(hang: bool, deaths: Path, text: LetterEncoder) -> None:
    data = in_memory()
    before = signal.getsignal(signal.SIGCHLD)
    # A death is seen at once; only a worker that hangs is waited for, so long that a slow one is not taken for it.
    timeout = 5.0 if hang else 300.0
    survived = steps(data, Deadly(deaths, 2, hang), workers=2, timeout=timeout, augmentation=Augmentation())
    assert len(list(deaths.iterdir())) == 2
    assert same(survived, steps(data, text, augmentation=Augmentation()))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_workers_lost_again_and_again_end_in_a_clear_error(deaths: Path) -> None:
    with pytest.raises(DataError, match="failed 4 times at step") as caught:
        steps(in_memory(), Deadly(deaths, 1000), workers=1)
    assert "--workers" in caught.value.hint


class Faulty(LetterEncoder):
    def encode(self, caption: Caption, max_tokens: int, rng: random.Random) -> Text:
        raise KeyError("a bug")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_worker_is_told_as_it_is(workers: int) -> None:
    with pytest.raises(KeyError, match="a bug"):
        steps(in_memory(), Faulty(), workers=workers)


def test_leaving_early_ends_the_workers(text: LetterEncoder) -> None:
    import multiprocessing

    reader = StepReader(in_memory(), text, ReadOptions(SIZE))
    running = iter(Loader(reader, reader.data.order(0, 8), start=0, stop=1000, workers=2))
    next(running)
    assert len(multiprocessing.active_children()) == 2
    running.close()
    deadline = time.monotonic() + 120
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


# --- the whole ---


def test_sizes_shares_and_the_record(tmp_path: Path) -> None:
    one, two = from_json(tmp_path / "a", 30), from_json(tmp_path / "b", 70)
    data = open_data([one.listings[0], two.listings[0]], val_images=10, limit=50)
    assert [len(rows) for rows in data.held_out] == [3, 7] and [len(rows) for rows in data.train] == [15, 35]
    assert data.images_per_step(100) == 50 and data.images_per_step(100, captions_per_image=1) == 100
    record = json.loads(json.dumps(data.describe()))
    assert record["images"] == 50 and record["captions"] == 100 and record["images_held_out"] == 10
    assert record["sources"][1]["format"] == "karpathy" and len(record["sources"][1]["sha256"]) == 64
    assert open_data([one.listings[0]], val_images=500).held_out_images == 6


def test_the_split_does_not_leave_a_source_empty() -> None:
    tiny = [Listing.from_pairs([(picture(i), ["a"])], name=str(i)) for i in range(5)]
    data = open_data(tiny, val_images=3, limit=1)
    assert all(len(rows) == 1 for rows in data.train)


def test_nothing_given_or_given_unevenly() -> None:
    with pytest.raises(DataError, match="no data is given"):
        open_data([])
    with pytest.raises(DataError, match="1 data paths, but 2 formats"):
        open_data(["a"], formats=["coco", "coco"])


def test_nlvr_runs_through_the_loader(nlvr: Path, text: LetterEncoder) -> None:
    data = open_data([nlvr / "captions.json", nlvr / "shards"], ratios=[0.3, 0.7], val_images=100)
    read = steps(data, text, images=32, stop=20, workers=2, augmentation=Augmentation())
    assert sum(map(len, read)) == 640
    assert 0.2 < sum(draw.source == 0 for step in read for draw in step.draws) / 640 < 0.4

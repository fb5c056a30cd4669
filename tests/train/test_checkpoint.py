"""Checkpoints: what is saved comes back, damage is seen, and a kill inside a save loses nothing."""

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest
import torch

from tests.warm import WarmProcess
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import DiskFull
from vpgtrans_core.train.checkpoint import (
    Checkpoint,
    check_fits,
    damage,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def checkpoint(step: int, size: int = 8) -> Checkpoint:
    value = torch.full((size,), float(step))
    return Checkpoint({"w": value}, {"w/exp_avg": value * 2}, {"stage": 1, "step": step, "note": "x"})


def test_round_trip_and_retention(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage1-00000002", "stage1-00000003"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 3 and newest.stage == 1
    assert torch.equal(newest.weights["w"], torch.full((8,), 3.0))
    assert torch.equal(newest.optimizer["w/exp_avg"], torch.full((8,), 6.0))


def test_stage_two_is_newer_than_stage_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(50), keep=5)
    two = checkpoint(1)
    two.state["stage"] = 2
    save_checkpoint(tmp_path, two, keep=5)
    assert newest_checkpoint(tmp_path).stage == 2


@pytest.mark.parametrize("kind", ["flip", "cut", "no file", "no manifest", "empty manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, kind: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=5)
    folder = save_checkpoint(tmp_path, checkpoint(2), keep=5)
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    if kind == "flip":
        content[-3] ^= 1
        weights.write_bytes(content)
    elif kind == "cut":
        weights.write_bytes(content[:-8])
    elif kind == "no file":
        weights.unlink()
    elif kind == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("")
    assert damage(folder)
    assert newest_checkpoint(tmp_path).step == 1
    with pytest.raises(ModelError, match="damaged"):
        load_checkpoint(folder)


def test_leftovers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".writing-stage1-00000009").mkdir()
    save_checkpoint(tmp_path, checkpoint(1))
    assert newest_checkpoint(tmp_path).step == 1
    assert not list(tmp_path.glob(".writing*"))


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint(1))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"a checkpoint in .* needs [0-9,]+ bytes, and [0-9,]+ were free") as caught:
        save_checkpoint(tmp_path, checkpoint(2))
    monkeypatch.undo()
    assert "--resume" in caught.value.hint
    assert newest_checkpoint(tmp_path).step == 1
    assert not list(tmp_path.glob(".writing*"))


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(1))
    umask = os.umask(0)
    os.umask(umask)
    assert all(p.stat().st_mode & 0o777 == 0o666 & ~umask for p in folder.iterdir())


SAVER = textwrap.dedent(
    """
    import itertools, os, sys, torch
    from pathlib import Path
    from vpgtrans_core.train import checkpoint as c
    root, naive, point = Path(sys.argv[1]), sys.argv[2] == "naive", int(sys.argv[3])
    calls = itertools.count()
    def dying(real):
        def call(*args, **kwargs):
            if armed and next(calls) == point:
                print("here", flush=True)
                import time; time.sleep(600)   # killed from outside, in the middle of the save
            return real(*args, **kwargs)
        return call
    def make(step):
        value = torch.full((1 << 20,), float(step))
        return c.Checkpoint({"w": value}, {"m": value}, {"stage": 1, "step": step})
    armed = False
    def save(step):
        if naive:   # what everybody does: write over the old file, in two writes
            content = c.save({"w": make(step).weights["w"]})
            with open(root / "weights.safetensors", "wb") as file:
                file.write(content[: len(content) // 2]); file.flush()
                os.fsync(file.fileno())
                file.write(content[len(content) // 2 :])
        else:
            c.save_checkpoint(root, make(step))
    save(1)
    os.fsync, os.open, Path.rename, c.shutil.rmtree = map(dying, (os.fsync, os.open, Path.rename, c.shutil.rmtree))
    armed = True
    save(2)
    print("done", flush=True)
    """
)


def kill_inside(root: Path, kind: str, point: int) -> bool:
    """Run a saver and kill -9 it at its `point`-th system step inside the second save; False when it got through."""
    process = WarmProcess(SAVER, [str(root), kind, str(point)])
    reached = "here" in process.wait_for("e")
    if reached:
        time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    process.wait()
    return reached


def test_a_kill_inside_a_save_loses_nothing(tmp_path: Path) -> None:
    points = 0
    for point in range(40):
        root = tmp_path / str(point)
        root.mkdir()
        reached = kill_inside(root, "ours", point)
        kept = newest_checkpoint(root)
        assert kept is not None and kept.step in (1, 2)
        assert torch.equal(kept.weights["w"], torch.full((1 << 20,), float(kept.step)))
        if not reached:
            break
        points += 1
    assert points >= 8, "the saver must have been killed at every one of its steps"


def test_the_naive_saver_loses_it(tmp_path: Path) -> None:
    """The control: the same kill destroys a file that is written over."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    assert kill_inside(tmp_path, "naive", 0)
    with pytest.raises(SafetensorError):
        load_file(tmp_path / "weights.safetensors")


def test_the_only_checkpoint_damaged_stops_the_run(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(1))
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"(?s)every checkpoint in .* is damaged.*weights\.safetensors does not"
    ) as caught:
        newest_checkpoint(tmp_path)
    assert "--overwrite" in caught.value.hint


def test_an_older_checkpoint_is_used_aloud(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    (save_checkpoint(tmp_path, checkpoint(2), keep=2) / "manifest.json").unlink()
    told: list[str] = []
    newest = newest_checkpoint(tmp_path, told.append)
    assert newest is not None and newest.step == 1
    assert "stage1-00000002 is damaged" in told[0] and "continuing from stage1-00000001" in told[0]


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"state.json": 3}', '{"weights.safetensors": {}}', "[" * 100_000])
def test_a_manifest_that_is_none_is_damage(tmp_path: Path, manifest: str) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(1))
    (folder / "manifest.json").write_text(manifest)
    assert damage(folder)


@pytest.mark.parametrize("mark", [".writing-", ".replaced-"])
def test_what_a_kill_left_whole_is_put_in_place(tmp_path: Path, mark: str) -> None:
    """Between a rename aside and the rename into place."""
    folder = save_checkpoint(tmp_path, checkpoint(7))
    folder.rename(tmp_path / f"{mark}{folder.name}")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.step == 7
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_checkpoint_of_another_model_is_refused() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.tensor([torch.nan])}
    saved = Checkpoint(weights, {}, {"stage": 1, "step": 2})
    with pytest.raises(
        ModelError, match=r"no parameter a.*b has the shape \(2,\), not \(3,\).*c has values that are not finite"
    ):
        check_fits(saved, {"b": torch.ones(3), "c": torch.ones(1)})


def test_stages_have_any_number(tmp_path: Path) -> None:
    for number in (2, 10):
        late = checkpoint(1)
        late.state["stage"] = number
        save_checkpoint(tmp_path, late, keep=5)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.stage == 10

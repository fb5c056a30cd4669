"""Which checkpoints of a run become points, and what a run had cost by then."""

from __future__ import annotations

import json
from pathlib import Path

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.lab.points import KeepPoints, points


def checkpoint(folder: Path, stage: int, step: int) -> RunEvent:
    path = folder / f"stage{stage}-{step:08d}"
    path.mkdir()
    (path / "weights.safetensors").write_bytes(f"{stage} {step}".encode())
    progress = {"images": 2 * step, "captions": 10 * step, "seconds": 0.5 * step}
    (path / "state.json").write_text(json.dumps({"stage": stage, "step": step, "progress": progress}))
    return RunEvent("checkpoint", str(folder), stage, step, {"path": str(path)})


def test_points_are_epochs_and_ends_and_count_over_the_stages(tmp_path):
    keep = KeepPoints(tmp_path / "points")
    for stage, step in ((1, 4), (2, 4), (2, 6), (2, 8), (2, 9)):  # at step 6 the run was stopped
        keep.vpgt_run_event(checkpoint(tmp_path, stage, step))
    keep.vpgt_run_event(RunEvent("step", str(tmp_path)))
    found = points(tmp_path / "points", 4)
    assert [(p.stage, p.step, p.steps) for p in found] == [(1, 4, 4), (2, 4, 8), (2, 8, 12), (2, 9, 13)]
    assert [(p.images, p.captions, p.seconds) for p in found] == [
        (8, 40, 2.0), (16, 80, 4.0), (24, 120, 6.0), (26, 130, 6.5)
    ]  # fmt: skip
    assert points(tmp_path / "points", 4, ends_only=True) == found[-1:]


def test_weights_stay_when_their_checkpoint_is_removed(tmp_path):
    event = checkpoint(tmp_path, 1, 4)
    KeepPoints(tmp_path / "points").vpgt_run_event(event)
    (Path(event.values["path"]) / "weights.safetensors").unlink()
    (point,) = points(tmp_path / "points", 4)
    assert point.weights.read_bytes() == b"1 4"

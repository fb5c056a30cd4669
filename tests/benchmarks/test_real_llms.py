"""The table of transfers between real LLMs, and the captions that a transfer needs, with the miniature's models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks.test_commands import run

SHORT = ("--steps", "1", "1", "--batch", "4", "--val-images", "4", "--pictures", "4", "--validate-every", "1")
CONCEPTS = ("red apple", "dog", "automobile", "grapes", "star", "house", "fish", "cat")


def test_drawn_pictures(tmp_path: Path) -> None:
    models = ("--target", "llama-mini", "--images", "24", "--out", str(tmp_path), "--seeds", "0")
    kept = ("--json", str(tmp_path / "all.json"))
    methods = ("--methods", "vpgtrans", "random projector", "from scratch")
    out = run("real_llms.py", "drawn", *models, *kept, *SHORT, *methods)
    rows = {row["method"]: row for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
    assert list(rows) == list(methods[1:])
    assert rows["vpgtrans"]["before training"] < rows["random projector"]["before training"]
    # Three looks: before training, and after each of two steps of four captions (from scratch has one stage).
    assert [captions for captions, _ in rows["from scratch"]["curve"]] == [0, 4, 8]
    assert "opt-mini-s -> llama-mini" in out and f"| {rows['vpgtrans']['sees']:.2f} |" in out
    again = run("real_llms.py", "drawn", *models, *kept, *SHORT, *methods)
    assert "seed 0:" not in again and "| from scratch |" in again  # nothing is trained twice


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder as zoo.world.pictures writes it, of eight plain pictures a part."""
    for part in ("train", "held-style"):
        (tmp_path / part / "images").mkdir(parents=True)
        rows = []
        for number, name in enumerate(CONCEPTS):
            file = f"images/{number}.png"
            Image.new("RGB", (16, 16), (30 * number, 90, 10)).save(tmp_path / part / file)
            rows.append({"image": file, "caption": [name], "concept": name, "style": part, "keywords": ["thing"]})
        (tmp_path / part / "captions.json").write_text(json.dumps(rows))
    return tmp_path


def test_the_small_world(world: Path, tmp_path: Path) -> None:
    models = ("--world", str(world), "--source", "opt-mini-s", "--target", "llama-mini", "--seeds", "0")
    kept = ("--json", str(tmp_path / "all.json"))
    out = run("real_llms.py", "world", *models, "--out", str(tmp_path), *SHORT, *kept, "--methods", "vpgtrans")
    (row,) = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert f"| {row['words']['word']:.0%} ({row['by chance']['word']:.0%}) |" in out
    assert "opt-mini-s -> llama-mini" in out and f"| vpgtrans | {row['before training']:.2f} |" in out


def test_the_source_as_teacher_in_the_small_world(world: Path, tmp_path: Path) -> None:
    sizes = ("--pictures", "6", "--pictures-a-step", "2", "--steps", "1", "1", "--seeds", "0", "--rows", "0", "1")
    out = run("teacher.py", "--world", str(world), *sizes, "--json", str(tmp_path / "teacher.json"))
    human, sampled = json.loads((tmp_path / "teacher.json").read_text())["rows"]
    assert human["captions"] is None and human["images"] == sampled["images"] == [2]
    assert sampled["captions"]["images"] == 6 and human["end"] != sampled["end"]
    assert "| three sampled from the source |" in out


def test_captions_needed(tmp_path: Path) -> None:
    options = ("--targets", "llama-mini", "--seeds", "1", "--steps", "2", "--warm-up", "2", "--limit", "132")
    out = run("captions_needed.py", *options, "--json", str(tmp_path / "needed.json"))
    (row,) = json.loads((tmp_path / "needed.json").read_text())
    assert list(row["curve"]) == ["0", "320", "640"]
    within = [int(captions) for captions, loss in row["curve"].items() if loss <= row["scratch"]]
    assert row["share"] == (within[0] / 640 if within else None)
    assert "| llama-mini | " in out


def test_a_goal_that_is_not_reached() -> None:
    from captions_needed import by_captions, table
    from real_llms import share_of_scratch

    lines = [{"step": 0, "held_out_loss": 3.0}, {"captions": 8}, {"captions": 8}, {"step": 2, "held_out_loss": 2.0}]
    assert by_captions(lines) == {0: 3.0, 16: 2.0}
    missed = {"target": "t", "scratch": 1.0, "share": None, "steps": 9, "curve": {0: 3.0}}
    assert "| never | not reached by all |" in table([missed])
    assert "| 3 | 33.3% |" in table([{**missed, "share": 1 / 3}])
    scratch = [{"method": "from scratch", "seed": seed, "curve": [(0, 4.0), (100, 2.0)]} for seed in (0, 1)]
    mine = [{"seed": 0, "curve": [(0, 3.0), (25, 2.0)]}, {"seed": 1, "curve": [(0, 3.0)]}]
    assert share_of_scratch(mine, scratch) == "25%, 1 of 2 never"
    assert share_of_scratch(mine[1:], scratch) == "never" and share_of_scratch(mine, []) == "-"


def test_kept_rows_are_of_the_same_command(tmp_path: Path) -> None:
    from kept import Kept

    file, given = tmp_path / "kept.json", argparse.Namespace(steps=[1, 2], world=tmp_path, methods=["a"], seeds=[0])
    kept = Kept(file, "method", given, ("methods",))
    assert list(kept.missing(["a", "b"], [0])) == [("a", 0), ("b", 0)]
    kept.add({"method": "a", "seed": 0, "end": 1.0, "sees": 0.0})
    given.methods, given.seeds = ["a", "b"], [0, 1]
    assert list(Kept(file, "method", given, ("methods",)).missing(["a", "b"], [0, 1])) == [("b", 0), ("a", 1), ("b", 1)]
    given.steps = [3, 4]
    with pytest.raises(SystemExit, match="other values of steps; give another --json"):
        Kept(file, "method", given, ("methods",))


@pytest.mark.parametrize("missing", ["--world", "--source"])
def test_the_world_must_be_made_first(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import real_llms

    given = {"--world": str(tmp_path), "--source": "opt-mini-s"}
    given.pop(missing)
    monkeypatch.setattr("sys.argv", ["real_llms.py", "world", *(word for pair in given.items() for word in pair)])
    with pytest.raises(SystemExit, match=r"docs/world\.md"):
        real_llms.main()


def test_a_folder_that_is_no_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import teacher

    monkeypatch.setattr("sys.argv", ["teacher.py", "--world", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"is missing: docs/world\.md"):
        teacher.main()

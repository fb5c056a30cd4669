"""`vpgt lab` and `vpgt advise` from start to end on the miniature: cells, resuming, failures, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.warm import vpgt
from vpgtrans_core.cli.main import main
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.hookspecs import hookimpl
from vpgtrans_core.lab.advise import advise
from vpgtrans_core.lab.cell import work
from vpgtrans_core.lab.experiment import read_experiment
from vpgtrans_core.lab.folder import DONE, FAILED, LabFolder
from vpgtrans_core.lab.matrix import cells
from vpgtrans_core.lab.run import run_lab
from vpgtrans_core.miniature.data import items, save
from vpgtrans_core.registry import default_registry, load_registry
from vpgtrans_core.run.lock import FolderLock
from vpgtrans_core.settings import build

TINY = {
    "recipe": "miniature",
    "vpg": "vpg-mini",
    "pairs": [{"from": "opt-mini-s", "to": "llama-mini"}],
    "epochs": 2,
    "pictures": 24,
    "settings": {"device": "cpu", "val_images": 4, "batch_size": 25},
    "tasks": {"mini-captions": {"limit": 3}, "mini-knowledge": {"limit": 4}},
    "generate": {"num_beams": 1, "max_new_tokens": 8},
}


def write(folder: Path, **changes) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def command(*arguments: object, code: int = 0) -> None:
    """Call the command line in this process."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == code


@pytest.mark.slow
def test_one_cell_fails_the_rest_goes_on_and_nothing_is_run_twice(tmp_path):
    broken = {"settings": {"val_data": "nowhere.json"}, "length": "none"}
    path = write(tmp_path, arms=["merged", "broken"], define={"broken": broken}, epochs=1)
    lab = LabFolder(tmp_path / "lab")
    first = vpgt("lab", "run", path, "--out", lab.path, "--jobs", 2)
    assert first.returncode == 2 and "1 of 2 cells failed, 1 are finished" in first.stderr, first.stderr
    good, bad = cells(read_experiment(path))
    assert lab.status(good.id) == DONE and lab.status(bad.id) == FAILED
    assert "nowhere.json" in lab.record(bad.id)["error"] and "nowhere.json" in first.stderr
    before = (lab.cell(good.id) / "cell.json").stat().st_mtime_ns
    command("lab", "report", lab.path)
    text = (lab.path / "report.md").read_text()
    assert "is not finished" in text and "nowhere.json" in text and "Scores at the end" in text
    again = vpgt("lab", "run", path, "--out", lab.path)
    assert "2 cells, 1 of them finished before" in again.stderr and f"started {bad.id}" in again.stderr
    assert (lab.cell(good.id) / "cell.json").stat().st_mtime_ns == before


class Stop:
    """Stops the run at one of its steps, as a kill would."""

    @hookimpl
    def vpgt_run_event(self, event) -> None:
        if event.kind == "step" and event.stage == 2 and event.step == 3:
            raise KeyboardInterrupt


def test_a_killed_cell_goes_on_to_the_same_scores(tmp_path):
    (cell,) = cells(read_experiment(write(tmp_path, arms=["transfer"])))
    records = []
    for name in ("whole", "killed"):
        lab = LabFolder(tmp_path / name)
        save(items("train", 24), lab.pictures(24))
        if name == "killed":
            registry = load_registry()
            registry.add(Stop(), "stop")
            with pytest.raises(KeyboardInterrupt):
                work(lab, cell, registry)
            assert "points" not in lab.record(cell.id)
        measured = work(lab, cell, load_registry())
        assert json.loads((lab.cell(cell.id) / "run" / "run.json").read_text())["resumed"] or name == "whole"
        records.append((measured, lab.record(cell.id)))
    (whole, recorded), (killed, again) = records
    assert [(p["stage"], p["step"]) for p in recorded["points"]] == [(1, 4), (2, 4)]
    for one, other in zip(recorded["points"], again["points"], strict=True):
        assert one["scores"] == other["scores"] and one["held_out_loss"] == other["held_out_loss"]
        assert one["captions"] == other["captions"]
    assert whole["held_out"] == killed["held_out"] and whole["start"] == killed["start"]
    assert set(recorded["prompts"]) == {"prompt_norm", "word_norm", "own", "other"}
    assert recorded["sizes"]["source_llm"] < recorded["sizes"]["target_llm"]
    assert not (tmp_path / "whole" / "cells" / cell.id / "points").exists()


def test_two_laboratories_in_one_folder_and_foreign_folders_are_refused(tmp_path):
    experiment = read_experiment(write(tmp_path, arms=["merged"]))
    (tmp_path / "lab").mkdir()
    lock = FolderLock.take(tmp_path / "lab")
    with pytest.raises(ConfigError, match="another run is using"):
        run_lab([experiment], tmp_path / "lab", default_registry())
    assert lock is not None
    lock.release()
    (tmp_path / "lab" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="something else than a laboratory"):
        run_lab([experiment], tmp_path / "lab", default_registry())
    assert [p.name for p in (tmp_path / "lab").iterdir()] == ["thesis.tex"]


def test_a_dry_run_plans_and_writes_nothing(tmp_path, capsys):
    path = write(tmp_path, arms=["scratch", "transfer"])
    command("lab", "run", path, "--dry-run")
    told = capsys.readouterr().out
    assert "llama-mini--scratch" in told and "together, on one A100" in told
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_several_experiments_need_a_folder_and_names_of_their_own(tmp_path, capsys):
    path = write(tmp_path, arms=["merged"])
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text())
    for files, told in (([path, other], "give --out"), ([path, path], "several experiments have the name 'tiny'")):
        command("lab", "run", *files, code=2)
        assert told in capsys.readouterr().err


def test_advice_ranks_what_can_be_used_and_tells_what_cannot(tmp_path):
    save(items("train", 24), tmp_path)
    settings = build({"data": (str(tmp_path / "captions.json"),), "device": "cpu"})
    best, last = advise("llama-mini", ["vpg-mini", "opt-mini-s"], default_registry(), settings, images=4)
    assert best.source == "opt-mini-s" and best.loss and 0 < best.loss < 5 and best.pairs and best.pairs > 50
    assert best.held_out_cosine is not None and -1 <= best.held_out_cosine <= 1 and best.gpu_hours is not None
    assert last.source == "vpg-mini" and last.loss is None and "no projector" in last.problem


def test_advice_without_any_usable_source_is_an_error(capsys):
    command("advise", "--to", "llama-mini", "--from", "vpg-mini", code=2)
    assert "no source can be used for llama-mini" in capsys.readouterr().err

"""Processes that see different folders, data or settings are refused with the reason."""

import json
import os
import socket
from pathlib import Path

import pytest

from tests.faults import harness
from tests.run.test_resume import settings
from vpgtrans_core.cli.main import show_error
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.processes.launching import launcher, tell_launcher
from vpgtrans_core.processes.shared import TOKEN
from vpgtrans_core.run.folder import RunFolder, nothing_to_keep


def command(world: Path, out: Path, **more: object) -> list[str]:
    values = settings(world, out, stage1_steps=1, stage2_steps=1, **more)
    names = {"source": "--from", "target": "--to", "out": "--out", "batch_size": "--batch-size", "seed": "--seed"}
    flags = [part for name, value in values.items() if name in names for part in (names[name], str(value))]
    short = "--workers 0 --device cpu --stage1-steps 1 --stage2-steps 1 --save vpg"
    return ["transfer", *flags, "--data", values["data"][0], *short.split()]


def forget_processes() -> None:
    """A fork must not take over that its parent was one process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def run_two(first: list[str], second: list[str], logs: Path) -> list[harness.Ending]:
    """Two processes of a run, each with a command of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "LOCAL_RANK": "0"}  # each is the first of its machine
    started = [
        harness.start(one, logs / f"{rank}.log", forget_processes, RANK=str(rank), **shared)
        for rank, one in enumerate((first, second))
    ]
    return [harness.wait(process, logs / f"{rank}.log") for rank, process in enumerate(started)]


def test_different_folders_are_refused_in_every_process(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpgtrans_core.processes.shared.PATIENCE", 0.5)
    mine, other = tmp_path / "mine", tmp_path / "other"
    (tmp_path / "other").mkdir()
    ends = run_two(command(world, mine), command(world, other), tmp_path)
    assert [end.code for end in ends] == [2, 2]
    assert f"error: process 1 (on {socket.gethostname()}) does not see the output folder {mine}" in ends[0].said
    assert "--out on storage that all machines share" in ends[0].said
    assert not [path for path in mine.iterdir() if path.name.startswith(TOKEN)] and nothing_to_keep(mine)


def test_different_data_and_settings_are_refused_all_at_once(world: Path, tmp_path: Path) -> None:
    content = json.loads((world / "data/captions.json").read_text())
    content["annotations"][0]["caption"] = "Nothing at all."
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images").symlink_to(world / "data/images")
    changed = tmp_path / "data/captions.json"
    changed.write_text(json.dumps(content))
    out = tmp_path / "out"
    ends = run_two(command(world, out), command(world, out, data=[str(changed)], seed=7), tmp_path)
    assert [end.code for end in ends] == [2, 2]
    for said in (ends[0].said, ends[1].said):
        assert f"process 1 on {socket.gethostname()} differs from process 0 in data: " in said
        assert "differs from process 0 in seed: was" in said and "same command" in said
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "failed"


def test_a_token_that_a_kill_left_does_not_make_a_folder_anothers(tmp_path: Path) -> None:
    (tmp_path / f"{TOKEN}1234").touch()
    assert nothing_to_keep(tmp_path)
    folder = RunFolder.create(tmp_path, overwrite=False)
    assert not (tmp_path / f"{TOKEN}1234").exists()
    folder.close()


def test_an_error_of_all_processes_is_shown_by_one_of_each_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ConfigError(["the folder is another"])
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    show_error(error)
    assert capsys.readouterr().err == "error (process 3): the folder is another\n"
    error.in_every_process = True
    show_error(error)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    show_error(error)
    assert "the folder is another" in capsys.readouterr().err


def test_torchrun_reports_the_errors_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    path = tmp_path / "error.json"
    tell_launcher(ConfigError(["the picture is missing"], "look for it"), {"TORCHELASTIC_ERROR_FILE": str(path)})
    failure = ProcessFailure(local_rank=1, pid=5, exitcode=2, error_file=str(path))
    report = str(ChildFailedError("vpgt", {1: failure}))
    assert "the picture is missing" in report and "look for it" in report
    tell_launcher(ConfigError(["x"]), {})


def test_only_torchrun_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launcher() == os.getppid()

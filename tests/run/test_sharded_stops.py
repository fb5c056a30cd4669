"""An LLM in shards when a process is killed, and at Ctrl-C in each phase; what is left goes on with one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.test_machines import without_dropout
from tests.run.test_processes import free_port, start
from tests.run.test_resume import settings
from tests.run.test_sharded import losses
from vpgtrans_core.run.pipeline import transfer

PHASES = {
    "start": ("vpgtrans_core.start.probe", "StartProbe", "loss"),
    "training": ("vpgtrans_core.train.stage", "StageRunner", "_count"),
    "end": ("vpgtrans_core.run.run", "Run", "_choose_decoding"),
}
"""What a run calls in each phase."""

INTERRUPTED = """
import importlib, os, pathlib, signal, sys, time
import torch
torch.set_num_threads(1)
from vpgtrans_core.cli.main import main

module, name, method, mark = sys.argv[1:5]
owner = getattr(importlib.import_module(module), name)
whole = getattr(owner, method)
def held(self, *args):
    if getattr(self, "plan", None) is None or (self.plan.number, self.state.step) == (1, 2):
        before, end = signal.getsignal(signal.SIGINT), time.monotonic() + 200
        pathlib.Path(f"{mark}.{os.environ['RANK']}").touch()
        while signal.getsignal(signal.SIGINT) == before and time.monotonic() < end:
            time.sleep(0.02)  # until the signal is noted, or raises
    return whole(self, *args)
setattr(owner, method, held)
main(sys.argv[5:])
"""


@pytest.fixture(scope="module")
def source(world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return without_dropout(world / "source", tmp_path_factory.mktemp("stops") / "source")


@pytest.fixture(scope="module")
def whole(world: Path, source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("stops") / "whole"
    transfer(**settings(world, folder, source=source, stage1_optimizer="adamw"))
    return folder


def goes_on(folder: Path, whole: Path) -> None:
    """Resume with one process, which holds the whole LLM, and compare."""
    record = transfer(out=str(folder), resume=True, shard=False).record
    assert record["status"] == "done" and record["machine"]["processes"] == 1 and not record["machine"]["sharded"]
    for mine, theirs in zip(losses(folder), losses(whole), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_one_is_killed_and_one_process_goes_on(world: Path, source: str, whole: Path, tmp_path: Path) -> None:
    values = settings(world, tmp_path / "out", source=source, stage1_optimizer="adamw", shard=True, checkpoint_steps=1)
    first, second = start(values, "SIGKILL")
    _, errors = first.communicate(timeout=300)
    second.communicate()
    assert first.returncode == 1 and second.returncode == -signal.SIGKILL
    assert "error: another process of the run has ended" in errors and "--resume --out" in errors
    assert "Traceback" not in errors
    goes_on(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c(world: Path, source: str, whole: Path, tmp_path: Path, phase: str) -> None:
    out, mark = tmp_path / "out", tmp_path / "here"
    values = settings(world, out, source=source, stage1_optimizer="adamw")
    values |= {"from": values.pop("source"), "to": values.pop("target"), "data": values["data"][0]}
    plain = {name.replace("_", "-"): value for name, value in values.items() if not isinstance(value, bool)}
    flags = ["--shard", "--augment", "--no-early-stop", *(f"--{name}={value}" for name, value in plain.items())]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, *PHASES[phase], str(mark), "transfer", *flags],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    while not all(Path(f"{mark}.{rank}").exists() for rank in range(2)):
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGINT)
    ended = [process.communicate(timeout=300) for process in processes]
    assert processes[0].returncode == 130, ended[0]
    assert processes[1].returncode in (130, 1, 2), ended[1]  # it may be told that the other one has ended
    assert not any("Traceback" in errors for _, errors in ended), ended
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    goes_on(out, whole)

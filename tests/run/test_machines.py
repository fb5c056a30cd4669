"""Two machines with two processes each: one is lost in the middle, and the run is resumed with one process.

A machine is a ``torchrun`` launcher in a network namespace of its own where the system allows that, else one on the
loopback device. The folder is shared, as it is on network storage.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.test_resume import settings
from vpgtrans_core.data import loader
from vpgtrans_core.processes.heartbeat import PATIENCE
from vpgtrans_core.run.pipeline import transfer

MACHINE = """
import json, os, pathlib, signal, sys, time
import torch
torch.set_num_threads(1)
from tests.run.test_machines import noting
from vpgtrans_core.cli.main import show_error
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.train import stage

values, place, rank = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), int(os.environ["RANK"])
count = stage.StageRunner._count
def counted(self, *args):
    count(self, *args)
    if rank > 1 and (self.plan.number, self.state.step) == (2, 2):
        (place / f"here.{rank}").touch()
        end = time.monotonic() + 200
        while getattr(signal.getsignal(signal.SIGTERM), "__name__", "") == "_note" and time.monotonic() < end:
            time.sleep(0.02)  # until the signal is noted
stage.StageRunner._count = counted
with noting(place / f"order.{rank}"):
    try:
        transfer(**values)
    except VpgtError as error:
        show_error(error)
        sys.exit(2)
"""


@contextlib.contextmanager
def noting(path: Path) -> Iterator[None]:
    """In this context every loader writes the keys of each step that it reads to a file."""
    iterate = loader.Loader.__iter__

    def noted(self: loader.Loader) -> Iterator[loader.StepData]:
        for data in iterate(self):
            with path.open("a") as file:
                file.write(json.dumps([self.reader.options.augmentation is not None, data.step, data.keys]) + "\n")
            yield data

    loader.Loader.__iter__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        loader.Loader.__iter__ = iterate  # type: ignore[method-assign]


def trained_on(path: Path) -> list[tuple[int, list[str]]]:
    """The steps and keys of training, in order."""
    return [(step, keys) for trains, step, keys in map(json.loads, path.read_text().splitlines()) if trains]


@pytest.fixture
def machines() -> Iterator[tuple[str, list[list[str]]]]:
    """The address of the first machine, and what a command begins with on each of the two."""
    names = [f"vpgt{os.getpid()}{end}" for end in "ab"]
    devices = [f"v{os.getpid()}{end}" for end in "ab"]
    made = [
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", devices[0], "type", "veth", "peer", "name", devices[1]],
    ]
    for number, (name, device) in enumerate(zip(names, devices, strict=True)):
        inside = ["ip", "netns", "exec", name, "ip"]
        made += [
            ["ip", "link", "set", device, "netns", name],
            [*inside, "addr", "add", f"10.213.7.{number + 1}/24", "dev", device],
            [*inside, "link", "set", device, "up"],
            [*inside, "link", "set", "lo", "up"],
        ]
    try:
        if shutil.which("ip") and all(subprocess.run(one, capture_output=True).returncode == 0 for one in made):
            starts = [
                ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={device}"]
                for name, device in zip(names, devices, strict=True)
            ]
            yield "10.213.7.1", starts
        else:
            yield "127.0.0.1", [["env", "GLOO_SOCKET_IFNAME=lo"]] * 2
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True) if shutil.which("ip") else None


def launch(address: str, port: int, rank: int, start: list[str], script: list[str]) -> subprocess.Popen:
    """What docs/launching.md runs on each machine."""
    rendezvous = f"--nnodes 2 --node-rank {rank} --nproc-per-node 2 --master-addr {address} --master-port {port}"
    return subprocess.Popen(
        [*start, sys.executable, "-m", "torch.distributed.run", *rendezvous.split(), *script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def without_dropout(source: Path, folder: Path) -> str:
    """A copy of a source; dropout draws other numbers in another number of processes."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.slow
def test_a_machine_is_lost_and_one_process_goes_on(
    world: Path, tmp_path: Path, machines: tuple[str, list[list[str]]]
) -> None:
    address, starts = machines
    own = {"source": without_dropout(world / "source", tmp_path / "source"), "stage1_optimizer": "adamw"}
    with noting(tmp_path / "order"):
        whole = transfer(**settings(world, tmp_path / "whole", **own)).record
    script = tmp_path / "machine.py"
    script.write_text(MACHINE)
    values = json.dumps(settings(world, tmp_path / "out", **own))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = (
        launch(address, port, rank, start, [str(script), values, str(tmp_path)]) for rank, start in enumerate(starts)
    )
    try:
        while not all((tmp_path / f"here.{rank}").exists() for rank in (2, 3)):
            assert first.poll() is None and second.poll() is None, second.communicate()[1]
            time.sleep(0.1)
        second.send_signal(signal.SIGKILL)
        _, lost = second.communicate(timeout=200)  # its processes have its pipe, until they end
        _, told = first.communicate(timeout=200)
    finally:
        for process in (first, second):
            process.kill()
    assert lost.count("the launcher of these processes has ended: they stop") == 1
    assert first.returncode != 0
    assert "stopped by SIGTERM after saving a checkpoint" in told and f"--resume --out {tmp_path / 'out'}" in told
    assert told.count("\nerror") + told.startswith("error") == 1, told

    alone = trained_on(tmp_path / "order")
    for rank in range(4):
        mine = trained_on(tmp_path / f"order.{rank}")
        assert len(mine) >= 6
        assert mine == [(step, keys[rank::4]) for step, keys in alone[: len(mine)]]

    resumed = transfer(**settings(world, tmp_path / "out", **own, resume=True)).record
    assert resumed["status"] == "done" and len(resumed["resumed"]) == 1

    def losses(out: str) -> list[float]:
        lines = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        return [line[name] for line in lines for name in ("loss", "held_out_loss") if name in line]

    assert len(losses("out")) >= 8 and losses("out") == pytest.approx(losses("whole"), abs=1e-5)
    assert resumed["stages"]["2"]["held_out_loss"] == pytest.approx(whole["stages"]["2"]["held_out_loss"], abs=1e-5)


def test_processes_without_a_launcher_end_within_a_minute() -> None:
    """They look every second, have `PATIENCE` for the end of the step, and are killed after it."""
    assert 1 + PATIENCE < 60

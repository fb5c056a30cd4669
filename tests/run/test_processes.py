"""Several processes: one that stops, one that is killed, one that has no picture; and what launchers do not pass on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.run.test_resume import settings
from tests.warm import WarmProcess
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.processes.heartbeat import BEAT, PATIENCE
from vpgtrans_core.processes.joining import GROUP_TIMEOUT, JOIN_TIMEOUT
from vpgtrans_core.processes.launching import check_launch, remarks
from vpgtrans_core.run.pipeline import transfer

RUNNER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import vpgtrans_core.processes.heartbeat as heartbeat
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.train import stage

values, which = json.loads(sys.argv[1]), sys.argv[2]
heartbeat.PATIENCE = 1.5
count = stage.StageRunner._count
def counted(self, *args):
    count(self, *args)
    if which and (self.plan.number, self.state.step) == (1, 2) and os.environ["RANK"] == "1":
        print("here", flush=True)
        os.kill(os.getpid(), getattr(signal, which))
stage.StageRunner._count = counted
try:
    transfer(**values)
except VpgtError as error:
    sys.exit(f"error: {error}")
"""


def start(values: dict, which: str = "", count: int = 2) -> list[WarmProcess]:
    """`count` processes of one run; process 1 sends itself the signal `which` in stage 1 after two steps."""
    port = free_port()
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    return [
        WarmProcess(
            RUNNER,
            [json.dumps(values), which],
            environment={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_named(world: Path, tmp_path: Path) -> None:
    first, second = start(settings(world, tmp_path / "out"), "SIGSTOP")
    try:
        told = first.wait_for("has not answered")
        assert told.startswith(f"warning: process 1 (process id {second.pid} on {socket.gethostname()}) has not")
        second.send_signal(signal.SIGCONT)
        assert first.wait(timeout=120) == 0 and second.wait(timeout=120) == 0
    finally:
        for process in (first, second):
            process.kill()


def test_it_is_named_within_a_minute() -> None:
    assert PATIENCE + 3 * BEAT < 60


@pytest.mark.slow
def test_the_others_end_when_one_is_killed(world: Path, tmp_path: Path) -> None:
    first, second = start(settings(world, tmp_path / "out"), "SIGKILL")
    _, errors = first.communicate(timeout=120)
    assert second.wait(timeout=120) == -signal.SIGKILL
    second.communicate()
    assert first.returncode == 1
    assert "error: another process of the run has ended" in errors and "--resume --out" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_process_may_have_no_held_out_picture(world: Path, tmp_path: Path) -> None:
    """One held-out picture for two processes."""
    processes = start(settings(world, tmp_path / "out", val_images=1, stage1_steps=1, stage2_steps=1))
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["stages"]["2"]["held_out_loss"] > 0 and record["data"]["images_held_out"] == 1


def test_the_last_held_out_picture_may_be_broken(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "val")
    content = json.loads((tmp_path / "val" / "captions.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    (tmp_path / "val" / "captions.json").write_text(json.dumps(content))
    (tmp_path / "val" / "images" / content["images"][0]["file_name"]).write_bytes(b"no picture")
    more = {"val_data": str(tmp_path / "val/captions.json"), "val_images": None, "max_bad_ratio": 1.0}
    result = transfer(**settings(world, tmp_path / "out", stage1_steps=1, stage2_steps=1, **more))
    assert result.record["stages"]["2"]["held_out_loss"] is None


def test_a_long_final_write_does_not_end_the_group() -> None:
    """Writing 142 GB at 50 MB/s takes 47 minutes; NCCL's own time-out is ten."""
    assert timedelta(hours=2) < GROUP_TIMEOUT


MEETING = """
import sys
from datetime import timedelta
import vpgtrans_core.processes.heartbeat as heartbeat
import vpgtrans_core.processes.joining as joining
from vpgtrans_core.errors import VpgtError

if len(sys.argv) > 1:
    heartbeat.PATIENCE, joining.JOIN_TIMEOUT = 0.2, timedelta(seconds=float(sys.argv[1]))
try:
    joining.joined(cpu=True)
except VpgtError as error:
    sys.exit(f"error: {error}")
import torch
from torch.distributed.distributed_c10d import _get_default_group, _get_default_store
print(_get_default_group()._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""


def meet(rank: int, port: int, *arguments: str) -> subprocess.Popen:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", MEETING, *arguments],
        env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_process_that_never_comes_is_not_waited_for_without_end() -> None:
    """As when it dies in its imports, before any connection would tell the others."""
    processes = [meet(rank, free_port(), "1") for rank in (0, 1)]  # each at a place of its own
    for rank, process in enumerate(processes):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert f"warning: process {rank} has waited" in errors
        assert "error: the 2 processes of the run have not come together" in errors and "Traceback" not in errors


def test_processes_that_have_met_have_time() -> None:
    port = free_port()
    for process in [meet(rank, port) for rank in (0, 1)]:
        output, errors = process.communicate(timeout=120)
        assert float(output) == GROUP_TIMEOUT.total_seconds(), errors
    assert timedelta(minutes=1) < JOIN_TIMEOUT < timedelta(minutes=30)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "x"},
            "'x', not a number",
        ),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', not a number"),
    ],
)
def test_what_a_launcher_left_behind_is_told(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check_launch(given)
    assert "unset WORLD_SIZE" in caught.value.hint
    check_launch({"WORLD_SIZE": "1"}), check_launch({"LOCAL_RANK": "0"})


def test_launchers_are_taken_at_their_word() -> None:
    assert remarks({}) == remarks({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False"}) == []
    (one,) = remarks({"ACCELERATE_USE_CPU": "True"})
    assert "starts one process" in one and "torchrun" in one
    assert remarks({"ACCELERATE_USE_CPU": "True", "WORLD_SIZE": "2"}) == []
    (precision,) = remarks({"ACCELERATE_MIXED_PRECISION": "fp16"})
    assert "ignores" in precision and "mixed_precision fp16" in precision and "--dtype float16" in precision


SIGNALLED = """
import os, signal, sys, time
sys.argv[0] = "vpgt"
import vpgtrans_core.cli.first as first
number, when = getattr(signal, sys.argv[1]), sys.argv[2]
if when == "imports":
    os.kill(os.getpid(), number)
    time.sleep(20)
import vpgtrans_core.cli.main as program
def at_work(*args, **kwargs):
    os.kill(os.getpid(), number)
    time.sleep(20)
program.Commands.resolve_command = at_work if when == "parsing" else program.Commands.resolve_command
program.State.registry = property(at_work)
program.main(["list-plugins"])
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", ["imports", "parsing", "command"])
def test_a_signal_ends_the_program_in_one_line(number: str, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED, number, when], capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + getattr(signal, number)
    assert done.stderr == f"stopped by {number}\n"


def test_the_command_line_as_a_library_leaves_signals_alone() -> None:
    code = "import signal, vpgtrans_core.cli.main; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n"

"""A machine of two loses its network in the middle of a run: both ends say so and stop, and the run is resumed."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.run.test_machines import launch, machines
from tests.run.test_processes import free_port
from tests.run.test_resume import settings
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.processes import lost
from vpgtrans_core.processes.heartbeat import other_processes
from vpgtrans_core.run.pipeline import transfer

__all__ = ["machines"]

MACHINE = """
import json, os, pathlib, sys, time
import torch
torch.set_num_threads(1)
from vpgtrans_core.cli.main import show_error
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.processes import lost
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.train import stage

values, place, rank = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), int(os.environ["RANK"])
lost.IDLE, lost.EVERY, lost.TIMES = 2, 1, 3
count = stage.StageRunner._count
def counted(self, *args):
    count(self, *args)
    if (self.plan.number, self.state.step) == (2, 2):
        (place / f"here.{rank}").touch()
        while not (place / "cut").exists():
            time.sleep(0.02)
stage.StageRunner._count = counted
try:
    transfer(**values)
except VpgtError as error:
    show_error(error)
    sys.exit(2)
"""


@pytest.mark.slow
def test_a_machine_without_network_is_noticed_on_both_sides(
    world: Path, tmp_path: Path, machines: tuple[str, list[list[str]]]
) -> None:
    address, starts = machines
    if starts[0][0] != "ip":
        pytest.skip("needs network namespaces")
    script = tmp_path / "machine.py"
    script.write_text(MACHINE)
    values = settings(world, tmp_path / "out", stage1_optimizer="adamw")
    port = free_port()
    both = [
        launch(address, port, rank, start, [str(script), json.dumps(values), str(tmp_path)])
        for rank, start in enumerate(starts)
    ]
    try:
        while not all((tmp_path / f"here.{rank}").exists() for rank in range(4)):
            assert all(each.poll() is None for each in both), [each.communicate()[1] for each in both]
            time.sleep(0.1)
        _, _, _, namespace, *_, device = starts[1]
        device = device.removeprefix("GLOO_SOCKET_IFNAME=")
        subprocess.run(["ip", "-n", namespace, "link", "set", device, "down"], check=True)
        (tmp_path / "cut").touch()
        told = [each.communicate(timeout=200)[1] for each in both]
    finally:
        for process in both:
            process.kill()
    here = socket.gethostname()
    assert all(each.returncode for each in both)
    assert any(f": process {n} on {here} cannot be reached any more" in told[0] for n in (2, 3)), told
    assert f"): process 0 on {here} cannot be reached any more" in told[1], told  # "error (process 2): ..."
    assert "Traceback" not in told[0].split("elastic")[0]
    assert transfer(**values | {"resume": True}).record["status"] == "done"


def test_it_is_noticed_within_two_minutes() -> None:
    assert 30 < lost.IDLE + lost.EVERY * lost.TIMES <= 60 < 60 + lost.PATIENCE < 120


class Store(dict):
    """What the processes share, as far as it is used here."""

    def get(self, key: str) -> bytes:  # type: ignore[override]
        while key not in self:
            time.sleep(0.01)
        return str(self[key]).encode()

    set = dict.__setitem__


def test_a_process_that_ends_is_not_a_lost_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that says nothing, or one that has no business here."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(lost, "losses", [])
    store, ended = Store(), []
    end = lost._ended
    monkeypatch.setattr(lost, "_ended", lambda *given: ended.append(given[1]) or end(*given))
    lost.watch_machines(0, store, lambda: False)
    port, token, _ = store.get("first").decode().split(" ", 2)
    with socket.create_connection(("127.0.0.1", int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\n")
        assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", int(port))) as other:
        other.sendall(f"{token} process 1 on b\n".encode())
        assert threading.Event().wait(0.2) is False and not ended
    while not ended:
        time.sleep(0.01)
    assert ended == [("process 1 on b", "127.0.0.1")] and not lost.losses


def test_what_is_lost_is_shut_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "losses", [])
    monkeypatch.setattr(lost, "_end", lambda waits: None)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as waiting:
        lost._lose("process 3 on c", "", lambda: True)  # of a connection that has gone: nothing is shut
        with socket.create_connection(server.getsockname()):
            lost._lose("process 2 on b", "127.0.0.1", lambda: True)
        assert waiting.recv(1) == b"" and server.getsockname()
    two: Any = type("Two", (), {"num_processes": 2})()
    told = pytest.raises(VpgtError, match="process 3 on c cannot be reached any more")
    with told as error, other_processes(two, Path("runs/x")):
        raise RuntimeError("[gloo] Connection closed by peer [10.0.0.2]")
    assert "--resume --out runs/x" in str(error.value)


ENDS = """
import sys
from vpgtrans_core.processes import lost
lost.PATIENCE = 2.0
lost.losses.append("process 2 on b cannot be reached any more")
lost._end(iter([False, True, True, True, True]).__next__)
"""


def test_who_waits_on_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9 and done.stderr == "error: process 2 on b cannot be reached any more\n"

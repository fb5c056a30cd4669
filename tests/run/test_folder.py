"""The folder of a run: what ended early leaves one that can be used, and two runs never share one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.test_resume import digest, settings
from vpgtrans_core.errors import ConfigError, DataError
from vpgtrans_core.files import put_in_place
from vpgtrans_core.run import lock
from vpgtrans_core.run.folder import RunFolder, nothing_to_keep
from vpgtrans_core.run.lock import FolderLock
from vpgtrans_core.run.pipeline import transfer

SHORT = {"stage1_steps": 1, "stage2_steps": 1}


@pytest.fixture(scope="module")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    transfer(**settings(world, out, **SHORT))
    return out


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class Told:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def stage(self, name: str, total: int) -> None: ...
    def step(self, advance: int = 1, **values: float) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_a_finished_run_is_left_as_it_is(done: Path) -> None:
    before, told = contents(done), Told()
    result = transfer(out=str(done), resume=True, reporter=told)
    assert result.record["status"] == "done" and result.folder == done
    assert told.messages == [f"the run in {done} is finished: nothing to do"]
    assert contents(done) == before


def test_a_finished_run_whose_model_is_gone_is_told(done: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((done / "run.json").read_bytes())
    with pytest.raises(ConfigError, match="its model is gone"):
        transfer(out=str(tmp_path), resume=True)


@pytest.mark.parametrize("again", [{}, {"resume": True}, {"overwrite": True}], ids=["same", "resume", "overwrite"])
def test_a_run_that_failed_early_leaves_a_folder_for_the_right_command(
    world: Path, done: Path, tmp_path: Path, again: dict
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="nowhere"):
        transfer(**settings(world, out, data=[str(tmp_path / "nowhere.json")], **SHORT))
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    transfer(**settings(world, out, **SHORT, **again))
    assert digest(out) == digest(done)


@pytest.mark.parametrize("left", ["nothing", "half a record", "a probe"])
def test_a_run_killed_before_its_first_record_is_begun_by_resume(
    world: Path, done: Path, tmp_path: Path, left: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if left != "nothing":
        (out / (".run.json" if left == "half a record" else ".writable")).write_text('{"status": "sta')
    with pytest.raises(ConfigError, match="no run to resume"):
        transfer(out=str(out), resume=True)  # its settings are not known
    transfer(**settings(world, out, **SHORT, resume=True))
    assert digest(out) == digest(done)


def test_a_killed_overwrite_goes_on_as_the_new_run(world: Path, done: Path, tmp_path: Path) -> None:
    """Between the new run's record and the removal of the old one's checkpoints."""
    out = tmp_path / "out"
    (out / "checkpoints" / "stage1-00000001").mkdir(parents=True)
    (out / "config.json").write_text("{}")
    wanted = {k: v for k, v in json.loads((done / "run.json").read_text())["settings"].items() if k != "out"}
    (out / "run.json").write_text(json.dumps({"status": "starting", "settings": wanted, "replacing": True}))
    transfer(out=str(out), resume=True)
    assert digest(out) == digest(done)


@pytest.mark.parametrize("text", ["", "[1]", '{"settings": 3}', '{"settings": {}, "resumed": 4}', "[" * 100_000])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json|the run in"):
        transfer(out=str(tmp_path), resume=True)


def test_another_programs_record_is_not_overwritten(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"mine": 1}')
    assert not nothing_to_keep(tmp_path)
    with pytest.raises(ConfigError, match="already exists"):
        transfer(**settings(world, tmp_path, **SHORT))
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


HOLDER = """
import sys, time
from pathlib import Path
from vpgtrans_core.run.lock import FolderLock
held = FolderLock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}], ids=["start", "resume", "overwrite"])
def test_a_folder_in_use_is_refused_with_its_holder(world: Path, tmp_path: Path, how: dict) -> None:
    wanted = json.dumps({"status": "running", "settings": settings(world, tmp_path, **SHORT)})
    (tmp_path / "run.json").write_text(wanted)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"another run is using .*process {holder.pid} on "):
            transfer(**settings(world, tmp_path, **SHORT, **how))
        assert (tmp_path / "run.json").read_text() == wanted
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    held = FolderLock.take(tmp_path)  # a kill leaves the file, not the lock
    assert held is not None
    held.release()
    assert not (tmp_path / lock.LOCK).exists()


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    held = FolderLock.take(tmp_path)
    assert held is not None
    begin, end = os.pipe()
    if (worker := os.fork()) == 0:
        os.close(end)
        os.read(begin, 1)  # alive until the test closes its end
        os._exit(0)
    os.close(begin)
    with pytest.raises(ConfigError, match="another run is using"):
        FolderLock.take(tmp_path)
    held.release()
    again = FolderLock.take(tmp_path)
    assert again is not None
    again.release()
    os.close(end)
    os.waitpid(worker, 0)


def test_a_folder_without_locks_is_used_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    assert FolderLock.take(tmp_path) is None
    assert "no file locks" in caplog.text
    RunFolder.create(tmp_path, overwrite=False).close()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr("vpgtrans_core.files._exchange", lambda *_: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]

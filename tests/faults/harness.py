"""Runs that die on purpose: a process that has imported everything forks a child for each, with a rule for its death.

The child is what ``vpgt`` is (`vpgtrans_core.cli.main.main`), on the tiny random world of ``tests/run/tiny_world.py``.
A rule counts what the child does below its output folder (files opened for writing, renames, removals: Python's audit
events) and strikes before the n-th; or it strikes after a while.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import matplotlib.backends.backend_agg
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor

import vpgtrans_core.cli.main as program
from tests.run import tiny_world
from vpgtrans_core.train import checkpoint

WARM = (AutoModelForCausalLM, AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor, matplotlib.backends)
"""Imported here, once, so that no child spends its seconds on it."""

WRITES = os.O_WRONLY | os.O_RDWR
NAMES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
LONGEST = 300.0


@dataclass(frozen=True)
class Event:
    """Something that a run did below its folder: which audit event, and the path within the folder."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind.removeprefix('os.')} {self.path}"


@dataclass(frozen=True)
class Ending:
    """How a child ended: its exit code (minus the signal's number), and what it printed."""

    code: int
    said: str


class World:
    """Models, pictures and the command line of one small transfer."""

    def __init__(self, root: Path, *more: str) -> None:
        self.root = root
        tiny_world.save_llm(root / "opt", "opt")
        tiny_world.save_llm(root / "llama", "llama", seed=5)
        tiny_world.save_source(root / "source", root / "opt")
        tiny_world.save_images(root / "data")
        os.environ["VPGT_CACHE"] = str(root / "cache")
        names = f"--from {root / 'source'} --to {root / 'llama'} --data {root / 'data/captions.json'}"
        sizes = "--batch-size 12 --workers 0 --val-images 4 --device cpu --warmup-steps 1 --no-early-stop"
        steps = "--stage1-steps 3 --stage2-steps 3 --checkpoint-steps 1 --seed 3"
        self.command = ["transfer", *names.split(), *sizes.split(), *steps.split(), *more]

    def out(self, name: str) -> Path:
        return self.root / "runs" / name

    def begin(self, out: Path, *more: str) -> list[str]:
        return [*self.command, "--out", str(out), *more]

    def resume(self, out: Path) -> list[str]:
        """The same command with ``--resume``, as a batch system starts it again."""
        return self.begin(out, "--resume")


def digest(out: Path) -> str | None:
    """SHA-256 of a finished model's weights and of all losses on the way; None when the model is not there."""
    weights = out / "model.safetensors"
    if not weights.is_file() or not (out / "config.json").is_file():
        return None
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    numbers = [[m["stage"], m["step"], m.get("loss"), m.get("held_out_loss"), m.get("grad_norm")] for m in lines]
    return hashlib.sha256(weights.read_bytes() + json.dumps(numbers).encode()).hexdigest()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_event(number: int, folder: Path) -> Callable[[], None]:
    """Die before the `number`-th event below `folder`."""
    count = -1

    def note(event: Event) -> None:
        nonlocal count
        count += 1
        if count == number:
            kill()

    return lambda: _listen(folder, note)


def full_from_event(number: int, folder: Path) -> Callable[[], None]:
    """From the `number`-th event below `folder` on its disk takes nothing new; removals and renames still work."""
    count = -1

    def note(event: Event) -> None:
        nonlocal count
        count += 1
        if count >= number and event.kind in ("open", "os.mkdir"):
            raise OSError(28, "No space left on device")

    return lambda: _listen(folder, note)


def counting(log: Path, folder: Path) -> Callable[[], None]:
    """Write down every event below `folder`."""

    def note(event: Event) -> None:
        with open(log, "a") as file:
            file.write(f"{event.kind}\t{event.path}\n")

    return lambda: _listen(folder, note)


def half_written(number: int) -> Callable[[], None]:
    """Write the first half of the `number`-th synced file, then die."""

    def arm() -> None:
        import vpgtrans_core.run.folder as folder

        count, real = -1, checkpoint.write_synced

        def write(path: Path, content: bytes) -> None:
            nonlocal count
            count += 1
            if count == number:
                real(path, content[: len(content) // 2])
                kill()
            real(path, content)

        checkpoint.write_synced = folder.write_synced = write

    return arm


def naive_saver(number: int, half: bool = True) -> Callable[[], None]:
    """The control: checkpoints are written as everybody does, over the old file; a kill comes in the `number`-th, when
    half of it is on the disk, or after it if `half` is off."""
    import vpgtrans_core.run.run as run_module
    import vpgtrans_core.train.stage as stage

    def arm() -> None:
        count = -1

        def save(root: Path, saved: checkpoint.Checkpoint, keep: int = 1) -> Path:
            nonlocal count
            count += 1
            root.mkdir(parents=True, exist_ok=True)
            torch.save(vars(saved), root / "last.pt")
            if count == number:
                if half:
                    os.truncate(root / "last.pt", (root / "last.pt").stat().st_size // 2)
                kill()
            return root

        def load(root: Path, say: Any = None) -> checkpoint.Checkpoint | None:
            path = root / "last.pt"
            return checkpoint.Checkpoint(**torch.load(path, weights_only=True)) if path.exists() else None

        stage.save_checkpoint = save
        run_module.newest_checkpoint = load  # where the run has imported it to

    return arm


def start(command: list[str], log: Path, arm: Callable[[], None] | None = None, **environment: str) -> int:
    """Fork a child that runs a command; returns its process id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if (process := os.fork()) != 0:
        return process
    code = 1
    try:
        os.environ |= environment
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest has put its own there
        torch.set_num_threads(1)
        sys.argv = ["vpgt", *command]
        if arm is not None:
            arm()
        program.main(command)
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, log: Path) -> Ending:
    """Wait for a child's end; one that takes `LONGEST` is killed, and its code is -9."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return Ending(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return Ending(-9, log.read_text(errors="replace") + "\ntook too long")


def run(command: list[str], log: Path, arm: Callable[[], None] | None = None) -> Ending:
    return wait(start(command, log, arm), log)


def start_several(command: list[str], log: Path, count: int) -> list[int]:
    """Fork `count` processes of one run, as ``torchrun`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    return [
        start(command, log.with_suffix(f".{rank}.log"), _impatient, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(count)
    ]


def _impatient() -> None:
    """Wait less for processes that never come than a user's nodes need to boot."""
    import vpgtrans_core.processes.joining as joining

    joining.JOIN_TIMEOUT = timedelta(seconds=30)


def wait_for_all(processes: list[int], log: Path, patience: float = 150.0) -> list[Ending]:
    """Wait for processes of one run; `patience` seconds after the first bad end the others are ended, as by
    ``torchrun``."""
    endings: dict[int, Ending] = {}
    deadline = time.monotonic() + LONGEST
    while len(endings) < len(processes):
        for rank, process in enumerate(processes):
            if rank in endings:
                continue
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                endings[rank] = Ending(code, log.with_suffix(f".{rank}.log").read_text(errors="replace"))
                if code:
                    deadline = min(deadline, time.monotonic() + patience)
            elif time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    return [endings[rank] for rank in range(len(processes))]


def _listen(folder: Path, note: Callable[[Event], None]) -> None:
    root = os.path.realpath(folder)
    busy = False

    def hook(name: str, values: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or (path := _written(name, values)) is None:
            return
        full = os.path.realpath(path)
        if full == root or full.startswith(root + os.sep):
            busy = True
            try:
                note(Event(name, os.path.relpath(full, root)))
            finally:
                busy = False

    sys.addaudithook(hook)


def _written(name: str, values: tuple[Any, ...]) -> str | None:
    """The path that an audit event is about to change; None for one that changes nothing."""
    if name == "open":
        path, _, flags = values
        return None if isinstance(path, int) or not (flags or 0) & WRITES else os.fsdecode(path)
    if name not in NAMES:
        return None
    path = values[1] if name == "os.rename" else values[0]
    return _relative_to(values[-1] if name in ("os.remove", "os.rmdir") else -1, path)


def _relative_to(descriptor: Any, path: Any) -> str | None:
    """A path that may be relative to an open folder (`shutil.rmtree` removes so)."""
    if isinstance(path, int):
        return None
    text = os.fsdecode(path)
    if isinstance(descriptor, int) and descriptor >= 0 and not os.path.isabs(text):
        with contextlib.suppress(OSError):
            return os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), text)
    return text

"""Processes that start with the libraries already imported: a run in a process of its own for a tenth of the start.

Python's fork server imports torch, transformers and vpgt once a test worker. Each process here is forked from it, so it
has nothing of the test's own state. What is tested of a start itself (imports, environment variables that libraries
read when they are imported) needs ``subprocess``.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

SERVER: ForkServerContext = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.warm_imports"])


@dataclass(frozen=True)
class _Program:
    code: str | None
    arguments: list[str]
    environment: dict[str, str]
    path: list[str]
    folder: Path
    out: Path
    errors: Path


class WarmProcess:
    """One process; its streams go to files."""

    def __init__(
        self,
        code: str | None,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        path: Sequence[str] = (),
        folder: Path | str | None = None,
    ):
        """Start `code` with `arguments` in `sys.argv`, or the command line where there is no code.

        Args:
            environment: All variables of the process; the test's own where there is none.
            path: Folders before all others in which it looks for modules and plugins.
        """
        self._streams = tempfile.TemporaryDirectory(prefix="warm-")
        self.out, self.errors = (Path(self._streams.name) / name for name in ("stdout", "stderr"))
        values = {"OMP_NUM_THREADS": "1", **(os.environ if environment is None else environment)}
        place = Path(folder or Path.cwd())
        program = _Program(code, list(arguments), values, list(path), place, self.out, self.errors)
        self._process = SERVER.Process(target=_become, args=(program,))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait_for(self, part: str, timeout: float = 120) -> str:
        """Wait until the process has written a line that holds `part`, to either stream; returns the line."""
        end = time.monotonic() + timeout
        while True:
            ended = self.returncode is not None
            lines = (self._read(self.out) + self._read(self.errors)).splitlines(keepends=True)
            if line := next((line for line in lines if part in line and line.endswith("\n")), None):
                return line
            assert not ended and time.monotonic() < end, "".join(lines)
            time.sleep(0.005)

    def wait(self, timeout: float = 120) -> int:
        """Raises:
        subprocess.TimeoutExpired: it has not ended; it is killed.
        """
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired("a warm process", timeout, self._read(self.out), self._read(self.errors))
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait; what it wrote to its standard output and error."""
        self.wait(timeout)
        return self._read(self.out), self._read(self.errors)

    @staticmethod
    def _read(file: Path) -> str:
        return file.read_text(errors="replace") if file.exists() else ""


def vpgt(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    path: Sequence[str] = (),
    folder: Path | str | None = None,
    timeout: float = 280,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [str(a) for a in arguments]
    process = WarmProcess(None, command, environment=environment, path=path, folder=folder)
    out, errors = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(["vpgt", *command], process.returncode, out, errors)


def _become(program: _Program) -> None:
    """Take the program's streams, environment and folder, run it, and end with its exit code."""
    for file, number in ((program.out, 1), (program.errors, 2)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.folder)
    sys.path[:0] = program.path
    multiprocessing.set_start_method(None, force=True)  # workers of its own start as they do elsewhere, not as it did
    sys.argv = ["-c" if program.code else "vpgt", *program.arguments]
    ended = _run(program.code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)


def _run(code: str | None) -> int:
    try:
        if code is None:
            from vpgtrans_core.cli.main import main

            main(sys.argv[1:])
        else:
            exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

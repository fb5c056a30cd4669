"""Several machines: whether all processes of a run see the same output folder. Loads no torch.

A path means another folder on each machine unless the folder lies on storage that all of them share. Every process gets
the same answer, so that none waits for one that has refused.
"""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vpgtrans_core.errors import ConfigError

if TYPE_CHECKING:
    from vpgtrans_core.processes.heartbeat import WatchedAccelerator

TOKEN = ".seen-"
"""How the name of the file begins that the main process shows the others; a new name each time, which no file system
can remember as missing."""
PATIENCE = 10.0
"""Seconds in which a new file must be seen by every process; network file systems need some."""


def check_folder(accelerator: WatchedAccelerator, path: Path) -> None:
    """Refuse to run if some process sees another folder at `path` than the main one; every process must ask.

    Raises:
        ConfigError: in every process; names those processes and their machines.
    """
    if accelerator.num_processes < 2:
        return
    name, trouble = _show(path) if accelerator.is_main_process else ("", "")
    name, trouble = accelerator.gather_object([(name, trouble)])[0]
    seen = bool(name) and _sees(path / name)
    answers = accelerator.gather_object([(seen, machine_name())])
    if accelerator.is_main_process and name:
        with contextlib.suppress(OSError):
            (path / name).unlink()
    if trouble:
        raise told_once(ConfigError([f"cannot write to the output folder {path}: {trouble}"], "choose another --out"))
    blind = [(rank, where) for rank, (sees, where) in enumerate(answers) if not sees]
    if blind:
        raise told_once(
            ConfigError(
                [f"{_those(blind)} not see the output folder {path.absolute()} of process 0 on {answers[0][1]}"],
                "give an --out on storage that all machines share, at the same path",
            )
        )


def _show(path: Path) -> tuple[str, str]:
    """Write a file under a new name; return the name, or why it cannot be written."""
    name = f"{TOKEN}{uuid.uuid4().hex}"
    try:
        (path / name).write_bytes(b"")
    except OSError as error:
        return "", error.strerror or str(error)
    return name, ""


def _sees(file: Path) -> bool:
    end = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def machine_name() -> str:
    """The name of this process's machine."""
    return socket.gethostname()


def _those(processes: Sequence[tuple[int, str]]) -> str:
    """The processes with their machines: ``processes 2, 3 (on b) do``."""
    ranks = ", ".join(str(rank) for rank, _ in processes)
    machines = ", ".join(dict.fromkeys(where for _, where in processes))
    return f"process {ranks} (on {machines}) does" if len(processes) == 1 else f"processes {ranks} (on {machines}) do"


def told_once(error: ConfigError) -> ConfigError:
    """An error that every process raises, and one of each machine shows."""
    error.in_every_process = True
    return error

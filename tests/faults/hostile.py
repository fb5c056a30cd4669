"""Hostile files, one child process each: ``python tests/faults/hostile.py`` prints a table of how each ended.

Every child reads one file, as vpgt reads files of that kind, and prints the seconds of CPU that
it took and how far its peak memory (`resource.getrusage`) rose. Nothing of a file may be executed: those that hold code
would leave a file behind.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.faults import hostile_files, hostile_runs

CASES = hostile_files.CASES | hostile_runs.CASES
MOST_SECONDS, MOST_BYTES = 5.0, 500e6
TAKEN = ("png with 300 MB of text", *hostile_runs.TAKEN)
"""Files that are taken: what is hostile in them is left unread, and the rest is whole."""


@dataclass(frozen=True)
class Outcome:
    """How reading a hostile file ended: seconds of CPU, bytes of memory, whether its code ran, and what was said."""

    name: str
    seconds: float
    bytes: float
    executed: bool
    said: str

    @property
    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        if self.executed:
            return "its code ran"
        if not self.said.startswith("taken" if self.name in TAKEN else "refused"):
            return self.said
        if self.seconds > MOST_SECONDS or self.bytes > MOST_BYTES:
            return "it took too much"
        return None


def warm() -> None:
    """Import what the readers need, once, so that it counts for no file."""
    from transformers import LlamaForCausalLM  # noqa: F401

    import vpgtrans_core.run.run
    from vpgtrans_core.registry import default_registry

    vpgtrans_core.run.run.torch.set_num_threads(1)
    default_registry()
    hostile_runs.world()


def in_a_fork(work: Callable[[], None]) -> int:
    """Do something in a process of its own; returns its exit code."""
    sys.stdout.flush()
    if not (process := os.fork()):
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def measure(read: Callable[[Path], None], path: Path, result: Path) -> None:
    """Read the file; what it took and how it ended goes into `result`."""
    from vpgtrans_core.data.bad import BadSampleError
    from vpgtrans_core.errors import VpgtError

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read(path)
        said = "taken as good"
    except (VpgtError, BadSampleError) as error:
        said = f"refused: {str(error).splitlines()[0]}"
    except BaseException as error:
        said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    result.write_text(json.dumps([time.process_time() - began, grown, said.replace(f"{path.parent}/", "")[:100]]))


def outcome(name: str) -> Outcome:
    """Make a hostile file and read it, each in a process of its own."""
    make, read = CASES[name]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        root, note, result = Path(folder), Path(other) / "path", Path(other) / "result"
        if in_a_fork(lambda: (os.chdir(root), note.write_text(str(make(root))))[0]):
            return Outcome(name, 0.0, 0.0, False, "the file could not be made")
        path = Path(note.read_text())
        code = in_a_fork(lambda: (os.chdir(root), measure(read, path, result))[0])
        executed = (root / "executed").exists()
        if code or not result.exists():
            return Outcome(name, 0.0, 0.0, executed, f"the process ended with {code}")
        seconds, grown, said = json.loads(result.read_text())
        return Outcome(name, seconds, grown, executed, said)


def main() -> None:
    warm()
    outcomes = [outcome(name) for name in (sys.argv[1:] or CASES)]
    print(f"{'FILE':<42}{'CPU s':>7}{'MB':>7}  ENDED")
    for one in outcomes:
        mark = f"FAULT ({one.fault}): " if one.fault else ""
        print(f"{one.name:<42}{one.seconds:>7.2f}{one.bytes / 1e6:>7.0f}  {mark}{one.said}")
    faults = [one for one in outcomes if one.fault]
    print(f"{len(outcomes)} files, {sum(o.executed for o in outcomes)} executed, {len(faults)} with a fault")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

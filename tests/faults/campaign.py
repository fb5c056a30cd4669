"""A campaign of faults: runs are killed, interrupted, and starved of room, then resumed; how many are lost is counted.

``python tests/faults/campaign.py [--short] [PART ...]`` prints, for each part, how many runs were tried and how many
lost. A run counts as lost unless the same command with ``--resume`` ends well, with the weights and the losses, bit for
bit, of a run that nothing happened to. The control arm saves its checkpoints over the old file; it must lose some.

The parts: ``writes`` (kills before writes, renames and removals in saves and in the final write, and files half
written), ``times`` (kills anywhere in time), ``room`` (a full disk), ``signals`` (SIGINT and SIGTERM from the first
import on), ``processes`` (2 and 4 processes, one of them killed), ``control``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `python tests/faults/campaign.py`

from tests.faults import harness
from tests.faults.harness import Ending, World, digest

ROOT = Path(__file__).parents[2]
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass
class Tally:
    """What a part of the campaign came to."""

    part: str
    tried: int = 0
    struck: int = 0
    lost: list[str] = field(default_factory=list)

    def note(self, what: str, *, struck: bool, fault: str | None) -> None:
        """Count one run; `fault` says what is wrong with how it ended or went on."""
        self.tried += 1
        self.struck += struck
        if fault:
            self.lost.append(f"{what}: {fault}")

    def __str__(self) -> str:
        listed = "".join(f"\n    {text}" for text in self.lost[:10])
        return f"{self.part}: {self.tried} tried, {self.struck} struck, {len(self.lost)} lost{listed}"


class Campaign:
    """The parts; each returns a `Tally`.

    Args:
        root: an empty folder to work in.
        share: the share of each part's runs that is tried.
    """

    def __init__(self, root: Path, share: float = 1.0, seed: int = 0) -> None:
        self.root = root
        self.share = share
        self.random = random.Random(seed)
        self.world = World(root)
        self.log = root / "logs" / "log"
        self.events, self.whole, self.seconds = self._untouched()

    def writes(self) -> Tally:
        """Every rename and removal of a save or the final write, other writes between them, and files half written."""
        tally = Tally("kills inside a save or the final write")
        moved = [i for i, event in enumerate(self.events) if event.kind not in ("open", "os.mkdir")]
        opened = [i for i, event in enumerate(self.events) if event.kind == "open"]
        for number in self._some(moved) + self._some(self._spread(opened, 20)):
            what = f"before {self.events[number]} (event {number})"
            self._kill_one(tally, what, lambda out, n=number: harness.before_event(n, out))
        for number in self._some(self._spread(range(self._synced()), 10)):
            self._kill_one(tally, f"half of synced file {number}", lambda out, n=number: harness.half_written(n))
        return tally

    def times(self, count: int = 50) -> Tally:
        """Kills at random moments, from the start of the command to its end."""
        tally = Tally("kills anywhere in time")
        for number in range(self._number(count)):
            out, delay = self._new_out(), self.random.uniform(0, self.seconds)
            process = harness.start(self.world.begin(out), self.log)
            time.sleep(delay)
            harness.os.kill(process, signal.SIGKILL)
            ending = harness.wait(process, self.log)
            self._judge(tally, f"kill {number} after {delay:.2f} s", out, struck=ending.code != 0)
        return tally

    def room(self, count: int = 10) -> Tally:
        """A disk that fills up at several places: the error must name the place, bytes and --resume."""
        tally = Tally("disk full")
        opened = [i for i, e in enumerate(self.events) if e.kind == "open" and ".lock" not in e.path]
        for number in self._some(self._spread(opened, count)):
            out = self._new_out()
            ending = harness.run(self.world.begin(out), self.log, harness.full_from_event(number, out))
            self._judge(tally, f"at {self.events[number]}", out, struck=True, fault=_unclear(ending))
        return tally

    def small_disk(self, count: int = 10) -> Tally:
        """The same on a real file system of too few bytes; for root alone."""
        tally = Tally("disk full, on a small file system")
        place = self.root / "small"
        most = self._most_bytes()
        for number in range(self._number(count)):
            size = int(most * (number + 0.5) / count) // 4096 * 4096
            with _tmpfs(place, size):
                out = place / "out"
                ending = harness.run(self.world.begin(out), self.log)
                fault = _unclear(ending) if ending.code else None
                subprocess.run(["mount", "-o", f"remount,size={8 * most}", str(place)], check=True)
                self._judge(tally, f"{size} bytes", out, struck=ending.code != 0, fault=fault)
        return tally

    def signals(self, moments: int = 30) -> Tally:
        """SIGINT and SIGTERM to a program of its own, from its first import on."""
        tally = Tally("SIGINT and SIGTERM")
        began = time.monotonic()
        self._program(self._new_out(), None, 0.0)
        longest = time.monotonic() - began
        first = _seconds_to_first_line()
        codes: Counter[int] = Counter()
        for number in range(self._number(moments)):
            for which in STOPPED:
                out = self._new_out()
                delay = 0.1 + (longest - 0.1) * number / self._number(moments)
                ending = self._program(out, which, delay)
                codes[ending.code] += 1
                fault = _undefined(ending, which, early=delay < 3 * first, finished=digest(out) is not None)
                self._judge(tally, f"{which.name} after {delay:.2f} s", out, struck=ending.code != 0, fault=fault)
        tally.part += f" (ended with {dict(sorted(codes.items()))})"
        return tally

    def processes(self, kills: int = 4) -> Tally:
        """Several processes, one of which is killed: all must end, and the run must go on."""
        tally = Tally("2 and 4 processes, one killed")
        for count in (2, 4):
            out = self._new_out()
            began = time.monotonic()
            whole = harness.wait_for_all(harness.start_several(self.world.begin(out), self.log, count), self.log)
            seconds, wanted = time.monotonic() - began, digest(out)
            if any(ending.code for ending in whole) or wanted is None:
                tally.note(
                    f"{count} processes, untouched",
                    struck=False,
                    fault="; ".join(f"{e.code}: {e.said[-600:]}" for e in whole if e.code) or "no model",
                )
                continue
            for number in range(self._number(kills)):
                self._kill_process(tally, count, number, seconds, wanted)
        return tally

    def control(self) -> Tally:
        """Checkpoints over the old file, killed half written: this arm must lose runs."""
        tally = Tally("control: a saver that writes over the old file")
        for number in self._some([*range(6)]):
            for half in (True, False):
                out = self._new_out()
                struck = harness.run(self.world.begin(out), self.log, harness.naive_saver(number, half)).code != 0
                resumed = harness.run(self.world.resume(out), self.log, harness.naive_saver(-1))
                last = resumed.said.strip().rpartition("\n")[2]
                fault = None if digest(out) == self.whole else f"resume ended with {resumed.code}: {last}"
                tally.note(f"{'inside' if half else 'after'} save {number}", struck=struck, fault=fault)
                shutil.rmtree(out, ignore_errors=True)
        return tally

    def _untouched(self) -> tuple[list[harness.Event], str, float]:
        """What a run does that nothing happens to: its events, what it ends with, and how long it takes."""
        out, listed = self._new_out(), self.root / "events"
        ending = harness.run(self.world.begin(out), self.log, harness.counting(listed, out))
        whole = digest(out)
        if ending.code or whole is None:
            raise SystemExit(f"the run fails without any fault:\n{ending.said}")
        began = time.monotonic()
        harness.run(self.world.begin(out, "--overwrite"), self.log)
        if digest(out) != whole:
            raise SystemExit("two untouched runs differ: nothing can be compared")
        events = [harness.Event(*line.split("\t")) for line in listed.read_text().splitlines()]
        return events, whole, time.monotonic() - began

    def _kill_one(self, tally: Tally, what: str, rule: Callable[[Path], Callable[[], None]]) -> None:
        out = self._new_out()
        ending = harness.run(self.world.begin(out), self.log, rule(out))
        fault = None if ending.code == -signal.SIGKILL else f"it was not killed, but ended with {ending.code}"
        self._judge(tally, what, out, struck=fault is None, fault=fault)

    def _kill_process(self, tally: Tally, count: int, number: int, seconds: float, wanted: str) -> None:
        out, delay = self._new_out(), self.random.uniform(0, seconds)
        processes = harness.start_several(self.world.begin(out), self.log, count)
        time.sleep(delay)
        killed = self.random.randrange(count)
        harness.os.kill(processes[killed], signal.SIGKILL)
        endings = harness.wait_for_all(processes, self.log)
        resumed = harness.wait_for_all(harness.start_several(self.world.resume(out), self.log, count), self.log)
        same = digest(out) == wanted
        fault = None if same else f"resume ended with {[e.code for e in resumed]}: {resumed[0].said[-300:]}"
        struck = endings[killed].code == -signal.SIGKILL
        bad = [_bad_survivor(rank, ending) for rank, ending in enumerate(endings) if rank != killed]
        fault = next(filter(None, bad), fault)
        tally.note(f"{count} processes, {killed} killed after {delay:.2f} s", struck=struck, fault=fault)
        shutil.rmtree(out, ignore_errors=True)

    def _judge(self, tally: Tally, what: str, out: Path, *, struck: bool, fault: str | None = None) -> None:
        """Resume and compare."""
        resumed = harness.run(self.world.resume(out), self.log)
        if fault is None and resumed.code:
            fault = f"resume ended with {resumed.code}: {resumed.said[-400:]}"
        if fault is None and digest(out) != self.whole:
            fault = "the resumed run ended with other weights or losses"
        tally.note(what, struck=struck, fault=fault)
        shutil.rmtree(out, ignore_errors=True)

    def _program(self, out: Path, number: signal.Signals | None, delay: float) -> Ending:
        """Run ``vpgt`` as a program of its own and send it a signal after `delay` seconds."""
        command = [sys.executable, "-m", "vpgtrans_core.cli.main", *self.world.begin(out)]
        with self.log.open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            if number is not None:
                time.sleep(delay)
                process.send_signal(number)
            code = process.wait(timeout=harness.LONGEST)
        return Ending(code, self.log.read_text(errors="replace"))

    def _new_out(self) -> Path:
        out = self.world.out(f"run{self.random.getrandbits(40):010x}")
        out.parent.mkdir(exist_ok=True)
        return out

    def _synced(self) -> int:
        """How many files a run writes with an fsync of each: records and checkpoints."""
        return sum(e.kind == "open" and (e.path == ".run.json" or ".writing-" in e.path) for e in self.events)

    def _most_bytes(self) -> int:
        """The bytes that a run has on the disk at most, nearly: its model, and as many checkpoints as there are at
        once."""
        out = self._new_out()
        harness.run(self.world.begin(out), self.log)
        model = sum(path.stat().st_size for path in out.rglob("*"))
        shutil.rmtree(out)
        return 2 * model

    def _number(self, count: int) -> int:
        return max(1, round(count * self.share))

    def _some(self, numbers: list[int]) -> list[int]:
        return self._spread(numbers, self._number(len(numbers)))

    def _spread(self, numbers: list[int] | range, count: int) -> list[int]:
        """`count` of these numbers, evenly spread."""
        count = min(count, len(numbers))
        return [numbers[int((i + 0.5) * len(numbers) / count)] for i in range(count)]


def _unclear(ending: Ending) -> str | None:
    """Say what is missing in the error of a full disk, or None."""
    if ending.code != 2:
        return f"it ended with {ending.code}: {ending.said[-300:]}"
    wanted = ("the disk is full", "bytes", "free", "--resume") if "cannot write to" not in ending.said else ("--out",)
    missing = [text for text in wanted if text not in ending.said]
    return f"the error does not say {missing}: {ending.said[-300:]}" if missing else None


def _undefined(ending: Ending, number: signal.Signals, *, early: bool, finished: bool) -> str | None:
    """Say what is wrong with how a program ended after a signal, or None.

    It ends with 128 + the signal's number. Only a run that has finished its model may end with 0. The signal itself may
    end it only where Python answers signals alone: before the program's first line, and while Python shuts down.
    """
    allowed = {STOPPED[number], *([0, -number] if finished else []), *([-number] if early else [])}
    if ending.code not in allowed:
        return f"it ended with {ending.code}: {ending.said[-300:]}"
    ours = "Traceback" in ending.said and ("vpgtrans_core" in ending.said or not early)
    return f"a traceback: {ending.said[-300:]}" if ours else None


def _seconds_to_first_line() -> float:
    """How long Python takes to reach the program's first line."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import vpgtrans_core.cli.first"], cwd=ROOT, check=True)
    return time.monotonic() - began


def _bad_survivor(rank: int, ending: Ending) -> str | None:
    """Say what is wrong with how a process ended after another was killed, or None."""
    if ending.code == -signal.SIGKILL:
        return f"process {rank} waited for the one that was killed until it was ended itself"
    told = "Traceback" not in ending.said and ("error" in ending.said or ending.code == 0)
    return None if told else f"process {rank} ended with {ending.code}: {ending.said[-600:]}"


@contextmanager
def _tmpfs(place: Path, size: int) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def can_mount(root: Path) -> bool:
    """Whether this user may make a small file system."""
    try:
        with _tmpfs(root / "try", 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["writes", "times", "room", "signals", "processes", "control"]
    parser.add_argument("part", nargs="*", metavar="PART", help=f"any of {', '.join(parts)}; default all")
    parser.add_argument("--short", action="store_true", help="a tenth of the runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), share=0.1 if arguments.short else 1.0)
        tallies = []
        for part in arguments.part or parts:
            tallies.append(getattr(campaign, part)())
            print(tallies[-1], flush=True)
            if part == "room" and can_mount(Path(folder)):
                tallies.append(campaign.small_disk())
                print(tallies[-1], flush=True)
    lost = sum(len(tally.lost) for tally in tallies if not tally.part.startswith("control"))
    powerless = [tally.part for tally in tallies if tally.part.startswith("control") and not tally.lost]
    print(f"lost: {lost}" + (f"; {powerless[0]} lost nothing, so the campaign shows nothing" if powerless else ""))
    sys.exit(1 if lost or powerless else 0)


if __name__ == "__main__":
    main()

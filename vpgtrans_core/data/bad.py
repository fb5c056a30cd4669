"""Samples that cannot be used: counted by kind, named, and bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vpgtrans_core.errors import DataError

NAMED = 1000
"""How many bad samples are named in a record; all of them are counted."""

MISSING_FILE = "missing file"
UNREADABLE_FILE = "unreadable file"
OUTSIDE_ROOT = "path outside root"
EMPTY_FILE = "empty file"
TOO_MANY_BYTES = "too many bytes"
TOO_MANY_PIXELS = "too many pixels"
NO_IMAGE = "no image"
BROKEN_IMAGE = "broken image"
TRUNCATED_IMAGE = "truncated image"
UNUSABLE_MODE = "unusable picture mode"
TOO_MANY_TILES = "too many tiles for the LLM"
EMPTY_CAPTION = "empty caption"
MISSING_TEXT = "missing text"
BAD_TEXT = "bad text"
BAD_ROW = "bad row"
MISSING_IMAGE = "missing image"
DUPLICATE_KEY = "duplicate key"
DAMAGED_SHARD = "damaged shard"


@dataclass(frozen=True)
class BadSample:
    """One sample that was left out: `kind` is one of this module's constants, `detail` says what was met."""

    key: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


class BadSampleError(Exception):
    """Raised where one sample turns out to be bad; the loader skips and counts it."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Bounds:
    """Above these the run stops: `ratio` of a source's samples that are bad, `run` bad ones in a row."""

    ratio: float = 0.01
    run: int = 100


@dataclass
class BadLog:
    """The bad samples of one source, in the order in which they were met. A sample counts once, however often it is
    visited and by whichever process."""

    counts: Counter[str] = field(default_factory=Counter)
    named: list[BadSample] = field(default_factory=list)
    longest_run: int = 0
    _run: int = 0
    _keys: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def good(self) -> None:
        """Note a usable sample: it ends a run of bad ones."""
        self._run = 0

    def bad(self, sample: BadSample, count: int = 1, *, again: bool = False, in_a_row: bool = True) -> None:
        """Note a bad sample.

        Args:
            sample: what it is.
            count: how many are lost with it (a damaged shard loses many).
            again: count it though its key was met before: it is another one.
            in_a_row: False when it was not met in reading but listed, where neighbours say nothing.
        """
        if in_a_row:
            self._run += 1
            self.longest_run = max(self.longest_run, self._run)
        name = f"{sample.kind}:{sample.key}"
        if name in self._keys and not again:
            return
        self._keys[name] = self._keys.get(name, 0) + count
        self.counts[sample.kind] += count
        if len(self.named) < NAMED:
            self.named.append(sample)

    def add(self, other: BadLog) -> None:
        """Take over the counts and names of another log; what both hold counts once."""
        for name, count in other._keys.items():
            if name not in self._keys:
                self._keys[name] = count
                self.counts[name.partition(":")[0]] += count
        known = set(self.named)
        self.named = (self.named + [sample for sample in other.named if sample not in known])[:NAMED]
        self.longest_run = max(self.longest_run, other.longest_run)

    def without(self, other: BadLog) -> BadLog:
        """What this log holds and the other does not."""
        rest = BadLog(longest_run=self.longest_run)
        for name, count in self._keys.items():
            if name not in other._keys:
                rest._keys[name] = count
                rest.counts[name.partition(":")[0]] += count
        rest.named = [sample for sample in self.named if f"{sample.kind}:{sample.key}" not in other._keys]
        return rest

    def check(self, samples: int, bounds: Bounds, source: str) -> None:
        """Stop when too much of the source is bad.

        Args:
            samples: all samples of the source, the bad ones included.
            bounds: what is tolerated.
            source: the source's name for the message.

        Raises:
            DataError: a bound is passed; the message lists counts by kind and the first bad samples.
        """
        if self.longest_run > bounds.run:
            what = f"{self.longest_run} bad samples in a row, more than {bounds.run}"
        elif self.total > bounds.ratio * samples:
            what = f"{self.total} of {samples} samples are bad, more than {bounds.ratio:.3g} of them"
        else:
            return
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.counts.most_common())
        listed = "\n".join(f"  - {sample}" for sample in self.named[:20])
        more = f"\n  ... and {self.total - 20} more" if self.total > 20 else ""
        raise DataError(
            f"{source}: {what}: {kinds}\n{listed}{more}",
            "correct the data, or raise --max-bad-ratio or --max-bad-run if the rest is good enough",
        )

    def describe(self) -> dict[str, Any]:
        """Counts by kind and the first names, for ``run.json``."""
        return {"counts": dict(sorted(self.counts.items())), "named": [str(sample) for sample in self.named]}

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which `load_state_dict` continues the count after a resume."""
        return {
            "counts": dict(self.counts),
            "named": [[s.key, s.kind, s.detail] for s in self.named],
            "longest_run": self.longest_run,
            "run": self._run,
            "keys": dict(sorted(self._keys.items())),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = Counter(state["counts"])
        self.named = [BadSample(*values) for values in state["named"]]
        self.longest_run = state["longest_run"]
        self._run = state["run"]
        keys = state["keys"]  # checkpoints of earlier versions hold a list
        self._keys = dict(keys) if isinstance(keys, dict) else dict.fromkeys(keys, 1)

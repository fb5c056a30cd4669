"""Results that a long benchmark keeps in a JSON file, so that one that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Kept:
    """Rows by name and seed, written to a file after each.

    Attributes:
        rows: what is there so far, the file's first.

    Args:
        file: ``--json``; None keeps them in memory only.
        column: of the rows that holds their name.
        given: the command's arguments. Those that choose rows may differ from the file's, the others may not.
        choosing: the names of those arguments.

    Raises:
        SystemExit: the file's rows were made with other arguments.
    """

    def __init__(self, file: Path | None, column: str, given: argparse.Namespace, choosing: tuple[str, ...]) -> None:
        self.file, self.column = file, column
        free = {"json", "out", "seeds", *choosing}
        self.arguments = json.loads(json.dumps({k: v for k, v in vars(given).items() if k not in free}, default=str))
        before = json.loads(file.read_text()) if file and file.exists() else {"arguments": self.arguments, "rows": []}
        if before["arguments"] != self.arguments:
            both = before["arguments"].keys() | self.arguments.keys()
            other = sorted(k for k in both if before["arguments"].get(k) != self.arguments.get(k))
            raise SystemExit(
                f"{file} was made with other values of {', '.join(other)}; give another --json, or remove it"
            )
        self.rows: list[Row] = before["rows"]

    def missing(self, names: list[str], seeds: list[int]) -> Iterator[tuple[str, int]]:
        """The names and seeds without a row yet, seed by seed."""
        known = {(row[self.column], row["seed"]) for row in self.rows}
        yield from ((name, seed) for seed in seeds for name in names if (name, seed) not in known)

    def add(self, row: Row) -> None:
        """Keep a row, and tell its end."""
        self.rows.append(row)
        print(f"{row[self.column]}, seed {row['seed']}: {row['end']:.3f}, sees {row['sees']:.3f}", flush=True)
        if self.file:
            self.file.write_text(json.dumps({"arguments": self.arguments, "rows": self.rows}, indent=1))

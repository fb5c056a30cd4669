"""The folder of a laboratory. No torch.

DIR/lab.json              the experiments and their cells
DIR/cells/ID/cell.json    one cell: what was asked, its status, the scores at its points, what it cost
DIR/cells/ID/run/         the transfer's own folder, with run.json and metrics.jsonl
DIR/cells/ID/points/      the weights at points that have no scores yet
DIR/cells/ID/log.txt      what the run printed
DIR/cache/                features of frozen VPGs, shared by all cells
DIR/pictures-N/           the miniature's first N training pictures
DIR/report.html, .md      the report
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.files import is_leftover, read_json, write_json, writing
from vpgtrans_core.lab.experiment import Experiment, Made, Pair, TaskUse
from vpgtrans_core.lab.matrix import Cell, distinct
from vpgtrans_core.run.lock import LOCK

LAB, CELL = "lab.json", "cell.json"
DONE, FAILED, WAITING = "done", "failed", "waiting"


class LabFolder:
    """One laboratory's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cell(self, identity: str) -> Path:
        return self.path / "cells" / identity

    def pictures(self, count: int) -> Path:
        return self.path / f"pictures-{count}"

    def record(self, identity: str) -> dict[str, Any]:
        """A cell's record; empty before its first run, and where a crash left none that can be read."""
        try:
            return read_json(self.cell(identity) / CELL)
        except ModelError:
            return {}

    def write_record(self, identity: str, **values: Any) -> dict[str, Any]:
        """Add values to a cell's record."""
        self.cell(identity).mkdir(parents=True, exist_ok=True)
        record = {**self.record(identity), **values}
        _write(self.cell(identity) / CELL, record)
        return record

    def status(self, identity: str) -> str:
        return str(self.record(identity).get("status", WAITING))

    def check(self) -> None:
        """Refuse a folder that holds something else.

        Raises:
            ConfigError: it does.
        """
        if (
            self.path.is_dir()
            and any(p.name != LOCK and not is_leftover(p) for p in self.path.iterdir())
            and not self._is_lab()
        ):
            raise ConfigError([f"{self.path} holds something else than a laboratory"], "choose another --out")

    def write_experiments(self, experiments: Sequence[Experiment]) -> None:
        """Note which experiments the folder holds; those of other names that it held stay."""
        before = {one.name: one for one in self.experiments()} if self._is_lab() else {}
        kept = {**before, **{one.name: one for one in experiments}}
        _write(self.path / LAB, {"experiments": [asdict(one) for one in kept.values()]})

    def experiments(self) -> list[Experiment]:
        """The experiments that were run here.

        Raises:
            ConfigError: the folder is not that of a laboratory.
        """
        if not self._is_lab():
            raise ConfigError([f"{self.path} is not the folder of a laboratory"], "run `vpgt lab run` first")
        return [_experiment(values) for values in read_json(self.path / LAB)["experiments"]]

    def all_cells(self) -> dict[str, Cell]:
        return distinct(self.experiments())

    def finished(self) -> dict[str, tuple[Cell, float]]:
        """The finished cells that the folder's experiments still have, and how many seconds of a core each took."""
        cells = self.all_cells() if self._is_lab() else {}
        done = {name: self.record(name) for name in cells if self.status(name) == DONE}
        return {name: (cells[name], float(one["cpu_seconds"])) for name, one in done.items() if "cpu_seconds" in one}

    def _is_lab(self) -> bool:
        return (self.path / LAB).is_file()


def _write(path: Path, values: dict[str, Any]) -> None:
    with writing("a record of the laboratory", path.parent, len(json.dumps(values, indent=2))):
        write_json(path, values)


def _experiment(values: dict[str, Any]) -> Experiment:
    inner = {
        "made": {name: Made(**one) for name, one in values["made"].items()},
        "tasks": {name: TaskUse(**{**one, "data": tuple(one["data"])}) for name, one in values["tasks"].items()},
        "pairs": tuple(Pair(**{**one, "paper": tuple(one["paper"])}) for one in values["pairs"]),
    }
    lists = {name: tuple(values[name]) for name in ("sources", "targets", "arms", "seeds")}
    return Experiment(**{**values, **inner, **lists})

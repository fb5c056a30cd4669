"""A run in trackio: ``trackio show`` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.hookspecs import hookimpl
from vpgtrans_core.loggers.numbers import numbers

PROJECT = "vpgt"


class Logger:
    """Logs the events of the run in one folder, under the folder's name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trackio: Any = None

    @hookimpl
    def vpgt_run_event(self, event: RunEvent) -> None:
        if event.folder != str(self.folder):
            return
        if found := numbers(event):
            self._open().log(found)  # steps begin again in each stage, trackio's own do not
        if event.kind in ("run_end", "run_failed") and self._trackio is not None:
            self._trackio.finish()
            self._trackio = None

    def _open(self) -> Any:
        if self._trackio is None:
            import trackio

            trackio.init(project=PROJECT, name=self.folder.name)
            self._trackio = trackio
        return self._trackio

"""A run in TensorBoard: ``tensorboard --logdir RUN/tensorboard`` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpgtrans_core.cards import RunEvent
from vpgtrans_core.hookspecs import hookimpl
from vpgtrans_core.loggers.numbers import numbers

FOLDER = "tensorboard"


class Logger:
    """Writes the events of the run in one folder below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    @hookimpl
    def vpgt_run_event(self, event: RunEvent) -> None:
        if event.folder != str(self.folder):
            return
        for name, value in numbers(event).items():
            self._open().add_scalar(name, value, event.step)
        for number, text in enumerate(event.values.get("said", ())):
            self._open().add_text(f"stage {event.stage}/picture {number + 1}", text, event.step)
        if event.kind in ("run_end", "run_failed") and self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / FOLDER))
        return self._writer

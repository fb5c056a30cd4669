"""Progress of long runs: a bar on a terminal, a few plain lines elsewhere. Loads no torch."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Any

from vpgtrans_core.processes.launching import is_main
from vpgtrans_core.registry.printable import printable

SECONDS_BETWEEN_LINES = 5.0
"""Minimum time between two plain lines of a stage, whatever the number of steps."""


class Reporter:
    """Shows the progress of a run on stderr. With several processes only the main one prints.

    Args:
        quiet: print only warnings.
        stream: where to print; a bar is drawn when it is a terminal.
        interval: minimum seconds between two plain lines of a stage.
    """

    def __init__(
        self, *, quiet: bool = False, stream: IO[str] | None = None, interval: float = SECONDS_BETWEEN_LINES
    ) -> None:
        self.quiet = quiet
        self.speaks = is_main()
        self._stream = stream or sys.stderr
        self._interval = interval
        self._bar: Any = None
        self._task: Any = None
        self._name, self._total, self._done = "", 0, 0
        self._began = self._printed = time.monotonic()
        self._values: dict[str, float] = {}
        self._pending = False

    def stage(self, name: str, total: int) -> None:
        """Start a part of the run that takes `total` steps."""
        self._end_stage()
        self._name, self._total, self._done, self._values = name, total, 0, {}
        self._began = self._printed = time.monotonic()
        if not self._may_print():
            return
        if self._stream.isatty():
            self._start_bar()
        else:
            self._line(f"{name}: {total} steps")

    def step(self, advance: int = 1, **values: float) -> None:
        """Count `advance` steps as done and show `values`: ``loss``, ``images_per_second``, ``waiting`` (the share of
        the time spent waiting for data)."""
        self._done += advance
        self._values |= values
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, values=self._values_text())
        elif self._may_print() and self._name:
            self._pending = True
            if time.monotonic() - self._printed >= self._interval:
                self._plain_progress()

    def message(self, text: str) -> None:
        """Print a message."""
        if self._may_print():
            self._line(text)

    def warning(self, text: str) -> None:
        """Print a warning, even when quiet."""
        if self.speaks:
            self._line(f"warning: {text}")

    def close(self) -> None:
        """Remove the bar and restore the terminal."""
        self._end_stage()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _may_print(self) -> bool:
        return self.speaks and not self.quiet

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=Console(file=self._stream),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(self._name, total=self._total, values="")
        self._bar.start()

    def _end_stage(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._pending:
            self._plain_progress()
        self._name = ""

    def _line(self, text: str) -> None:
        text = printable(text)
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def _plain_progress(self) -> None:
        parts = [f"{self._name}: {self._done}/{self._total}", self._values_text(), self._time_left()]
        self._line(", ".join(part for part in parts if part))
        self._printed, self._pending = time.monotonic(), False

    def _values_text(self) -> str:
        """``"loss 1.23, 45 images/s, waiting 2 %"``"""
        values = dict(self._values)
        parts = [f"loss {values.pop('loss'):.4f}"] if "loss" in values else []
        if (rate := values.pop("images_per_second", None)) is not None:
            parts.append(f"{rate:.3g} images/s")
        elif rate := self._done / max(time.monotonic() - self._began, 1e-9):
            parts.append(f"{rate:.3g} steps/s")
        if (waiting := values.pop("waiting", None)) is not None:
            parts.append(f"waiting {waiting:.0%}")
        return ", ".join(parts + [f"{name} {value:.4g}" for name, value in values.items()])

    def _time_left(self) -> str:
        if not 0 < self._done < self._total:
            return ""
        seconds = (time.monotonic() - self._began) / self._done * (self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"

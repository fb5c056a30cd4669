"""Ctrl-C and SIGTERM: training stops at the end of its step, everything else stops at once.

Loads no torch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from vpgtrans_core.errors import VpgtError

STOPS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(VpgtError):
    """The run was asked to stop and saved a checkpoint. `exit_code` is 128 + the signal's number."""

    def __init__(self, number: int, folder: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after saving a checkpoint", f"continue with --resume --out {folder}")
        self.exit_code = 128 + number
        self.in_every_process = True


class Stopped(KeyboardInterrupt):
    """A signal came outside of training; it ends the program at once, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopSignals:
    """In this context SIGINT and SIGTERM are stored in `received` (0 for none); a second one acts as usual."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in STOPS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def stop_by_exception(note: Callable[[int], None]) -> None:
    """Let SIGINT and SIGTERM raise `Stopped`, so that whoever is at work can clean up; `note` is told the number."""

    def stop(number: int, _frame: FrameType | None) -> None:
        note(number)
        raise Stopped(number)

    for number in STOPS:
        signal.signal(number, stop)

"""Imported before all else by the command line: a signal during the imports ends the program in one line.

Nothing happens where the command line is imported by another program, which has handlers of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from vpgtrans_core.train.signals import end_at_once, stop_by_exception


def is_program() -> bool:
    """Whether this process is ``vpgt`` itself: the script, or ``python -m vpgtrans_core.cli.main``."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return Path(sys.argv[0]).stem == "vpgt" or getattr(spec, "name", "") == "vpgtrans_core.cli.main"


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """While a command is at work its signals are exceptions, so that it can clean up."""
    if not is_program():
        yield
        return
    stop_by_exception()
    try:
        yield
    finally:
        end_at_once()


if is_program():
    end_at_once()

"""Imported before all else by the command line: a signal during the imports ends the program in one line.

It imports little itself, because a signal that comes before its last line is answered by Python, with a traceback.
Nothing happens where the command line is imported by another program, which has handlers of its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType


def is_program() -> bool:
    """Whether this process is ``vpgt`` itself: the script, or ``python -m vpgtrans_core.cli.main``."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    script = os.path.basename(sys.argv[0]).partition(".")[0]
    return script == "vpgt" or getattr(spec, "name", "") == "vpgtrans_core.cli.main"


def end_at_once() -> None:
    """Let SIGINT and SIGTERM end the program with one line and 128 + their number. For the time before and after its
    work, when an exception would only be shown as a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """While a command is at work its signals are exceptions, so that it can clean up.

    Libraries may make another exception of them: one that comes in the middle of an import can be followed by any.
    After a signal the program therefore ends with the signal's code, whatever the exception is.
    """
    if not is_program():
        yield
        return
    from vpgtrans_core.errors import VpgtError
    from vpgtrans_core.train.signals import stop_by_exception

    received: list[int] = []
    stop_by_exception(received.append)
    try:
        yield
    except VpgtError:
        raise
    except BaseException as error:
        if received and not (isinstance(error, SystemExit) and error.code in (None, 0, 128 + received[-1])):
            _end(received[-1], None)
        raise
    finally:
        end_at_once()
        gc.freeze()  # otherwise Python's last collections walk over all objects of torch: most of a second


if is_program():
    end_at_once()
    gc.set_threshold(10_000)  # with Python's 700 an eighth of the time of importing torch goes into looking for garbage

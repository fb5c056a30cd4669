"""A full disk, told in full: what was being written where, how many bytes it needs, how many are free.

Loads no torch.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vpgtrans_core.errors import VpgtError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a disk, a quota or a file that takes no more."""
FULL_TEXTS = ("No space left", "os error 28", "StorageFull", "quota exceeded", "os error 122", "os error 27")
"""How libraries that raise errors of their own (safetensors, tokenizers) tell of them."""


class DiskFull(VpgtError):
    """There is no room for what has to be written."""


@contextlib.contextmanager
def writing(what: str, path: Path, needed: int | Callable[[], int], run: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do.

    Args:
        what: what is written, for the message.
        path: where.
        needed: bytes that it takes, or what counts them.
        run: the folder of the run, which goes on from its last checkpoint when there is room; None for no run.

    Raises:
        DiskFull: the disk, a quota or a limit of file sizes took no more.
    """
    free = free_bytes(path)  # before: what is half written takes room too
    try:
        yield
    except VpgtError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        go_on = f", then continue with --resume --out {run}" if run is not None else " and try again"
        count = needed() if callable(needed) else needed
        raise DiskFull(
            f"the disk is full: {what} in {path} needs {count:,} bytes, and {free:,} were free", f"make room{go_on}"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, tells of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(text in str(error) for text in FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(path: Path) -> int:
    """Bytes that are free where `path` is or would be; 0 where the system does not tell."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0

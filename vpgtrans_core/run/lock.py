"""One run at a time in a folder: a lock that its process holds and that does not survive a kill.

The file's content only names the holder; the lock itself is the operating system's (``flock``) and ends with the
process. The main process takes it for all processes of a run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from vpgtrans_core.errors import ConfigError

log = logging.getLogger(__name__)

LOCK = ".lock"
ADVICE = "wait until it ends, stop it (Ctrl-C or SIGTERM saves a checkpoint), or choose another --out"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of file systems without locks."""
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """The lock on one folder, held until `release` or the end of the process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        _held.add(self)

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """Take the lock on an existing folder; return None with a warning if its file system has no locks.

        Raises:
            ConfigError: another run holds it; the message names it.
            OSError: the folder cannot be written.
        """
        path = folder / LOCK
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise ConfigError([f"another run is using {folder}: {holder}"], ADVICE) from None
            except OSError as error:
                os.close(descriptor)
                if error.errno not in _UNSUPPORTED:
                    raise
                log.warning("%s has no file locks; do not start a second run in it", folder)
                return None
            if _is_still(path, descriptor):
                break
            os.close(descriptor)  # its holder removed the file before the lock was ours
        _sign(descriptor)
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self in _held:
            _held.discard(self)
            self.path.unlink(missing_ok=True)
            os.close(self.descriptor)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder, if it is not there, and keep other processes out of this context for it. The folder may be renamed
    meanwhile.

    Raises:
        ConfigError: another process is in it. OSError: the folder cannot be made.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                [f"another process is writing {folder}"], "wait for it, or choose another --out"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
        if _is_still(folder, descriptor):
            break
        os.close(descriptor)  # it was put in its place before the lock was ours
    try:
        yield
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write the holder into the file; on a full disk the lock is held without it."""
    holder = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(sys.argv)[:500],
    }
    with contextlib.suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        where = f"process {int(holder['process'])} on {holder['host']}"
        return f"{where}, since {holder['since']}: {holder['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _forget() -> None:
    """In a forked child (a data worker): only the parent holds the lock, and the child must not keep it alive."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            os.close(lock.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)

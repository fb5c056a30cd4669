"""Small files: json of bounded size, writes that survive a power cut, hashes, file names used in model folders.

Loads no torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vpgtrans_core.errors import ConfigError, ModelError, VpgtError

CONFIG = "config.json"
"""A model folder's config, as transformers writes it."""
REFERENCES = "references.json"
ADAPTER = "adapter"
"""The folder, inside a model's, with the LoRA adapter of its LLM; at the top transformers would load it unasked."""
"""Beside a VPG saved without its LLM (``--save vpg``): where the LLM, and the ViT, are."""
RECORD = "run.json"
"""What a run records of itself in its folder."""
LLM_PREFIX = "language_model."
"""Prefix of the names of the LLM's tensors in a VL-LLM's folder."""
JSON_LIMIT = 64 << 20
"""Largest json file that is read, in bytes."""
DEPTH_LIMIT, VALUES_LIMIT = 16, 100_000
"""Maximum nesting of a settings or card file, and maximum number of its values."""
REPLACED = ".replaced-"
"""Prefix of the name of a file or folder while another takes its place."""
_HERE, _SWAP = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk, an exhausted quota and the limit of a file's size."""
FULL_TEXTS = (
    *("No space left", "os error 28", "StorageFull", "quota exceeded", "Disk quota", "os error 122", "os error 27"),
    *("File too large", "iostream error"),
)
"""Texts of the same errors from libraries that raise their own (safetensors, tokenizers, torch)."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
YAML_LIMIT = 1 << 20
"""Largest yaml file that is read, in bytes."""


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    return sha256_files([path])


def sha256_files(parts: Iterable[str | Path]) -> str:
    """SHA-256 of one file that lies in parts, as if they were joined."""
    digest = hashlib.sha256()
    for part in parts:
        stream, _ = open_regular(Path(part))
        with stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class NotRegularError(OSError):
    """A path leads to something that is not a regular file; the text says what it is."""


def open_regular(path: Path, *, pipes: bool = False) -> tuple[BinaryIO, int]:
    """Open a regular file without ever waiting for it; also return its bytes.

    A pipe, a socket or a device under a file's name would be waited for without end.

    Args:
        pipes: whether a pipe will do, too, as a shell's ``<(command)`` gives one; nothing is waited for at one that
            nobody writes to.

    Raises:
        NotRegularError: it is something else. OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        status = os.fstat(descriptor)
        if pipes and stat.S_ISFIFO(status.st_mode):
            os.set_blocking(descriptor, True)
        elif not stat.S_ISREG(status.st_mode):
            raise NotRegularError(f"not a regular file but {kind_of(status.st_mode)}")
        return os.fdopen(descriptor, "rb"), status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def kind_of(mode: int) -> str:
    """What a file of this mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def read_bounded(path: Path, most: int, *, pipes: bool = False) -> bytes | None:
    """The bytes of a regular file; None when there are more than `most`, of which nothing is kept then.

    Raises:
        OSError: as in `open_regular`.
    """
    file, size = open_regular(path, pipes=pipes)
    with file:
        if size > most:
            return None
        content = file.read(most + 1)
    return content if len(content) <= most else None


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object of bounded size.

    Raises:
        ModelError: the file is missing or too large, or does not hold a json object.
    """
    try:
        content = read_bounded(path, JSON_LIMIT)
        if content is None:
            raise ModelError(f"{path} is larger than {JSON_LIMIT} bytes")
        values = json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a json object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a json object, fsynced, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, (json.dumps(values, indent=2) + "\n").encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def is_leftover(path: Path) -> bool:
    """Whether a name is that of a half-written file, as a kill in `write_json` leaves one."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def fsync(path: Path) -> None:
    """Force a file's or folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write and fsync one file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def check_plain(values: Any) -> None:
    """Refuse values of a settings or card file that are nested too deep or, by aliases, far larger than the file.

    Raises:
        ValueError: naming which of the two.
    """
    level, count = [values], 0
    for _ in range(DEPTH_LIMIT):
        inner = [v for value in level for v in _inside(value)]
        count += len(inner)
        if count > VALUES_LIMIT:
            raise ValueError(f"it holds more than {VALUES_LIMIT} values, counting every use of an alias")
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {DEPTH_LIMIT} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set)) else []


def put_in_place(new: Path, final: Path) -> None:
    """Rename the file or folder `new` to `final`, and remove what had that name before.

    On Linux the two swap names in one step: a kill at any moment leaves a complete one called `final`. Where the system
    cannot swap, the old one is called ``.replaced-NAME`` until the new one is in place.
    """
    if not final.exists():
        new.rename(final)
        fsync(final.parent)
        return
    old = new
    if not _exchange(new, final):
        old = final.with_name(f"{REPLACED}{final.name}")
        remove(old)
        final.rename(old)
        new.rename(final)
    fsync(final.parent)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two paths in one step; False where the system or its file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return bool(renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP) == 0)


class DiskFull(VpgtError):
    """The disk has no room for what must be written."""


class NoRoom(OSError):
    """A file that the disk has no room for; `bytes` is its size."""

    def __init__(self, path: Path, bytes: int) -> None:
        super().__init__(errno.ENOSPC, f"No space left for {bytes:,} bytes", str(path))
        self.bytes = bytes


@contextlib.contextmanager
def filling(path: Path, size: int) -> Iterator[None]:
    """Turn the error of a full disk, whichever library raises it, into a `NoRoom` for a file of `size` bytes.

    Raises:
        NoRoom: the disk is full.
    """
    try:
        yield
    except NoRoom:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise NoRoom(path, size) from error


def lacking(error: BaseException | None) -> int:
    """Bytes of the file that an error, or one of its causes, had no room for; 0 where that is not known."""
    while error is not None:
        if isinstance(error, NoRoom):
            return error.bytes
        error = error.__cause__ or error.__context__
    return 0


@contextlib.contextmanager
def writing(what: str, path: Path, needed: int | Callable[[], int], run: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one with advice.

    Args:
        what: what is written, for the message.
        path: where.
        needed: bytes that it takes, or a function that counts them.
        run: the folder of the run, which can be resumed once there is room; None outside of a run.

    Raises:
        DiskFull: the disk is full, a quota is exhausted, or the file is too large.
    """
    free = free_bytes(path)  # measured before, because a half-written file takes room too
    try:
        yield
    except VpgtError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        advice = f", then continue with --resume --out {run}" if run is not None else " and try again"
        count = needed() if callable(needed) else needed
        raise DiskFull(
            f"the disk is full: {what} in {path} needs {count:,} bytes, and {free:,} were free", f"make room{advice}"
        ) from error


def disk_full(error: BaseException) -> DiskFull | None:
    """The error to show for one that means a full disk, wherever it was met; None for another error."""
    if not is_full(error):
        return None
    cause: BaseException | None = error
    while cause is not None:  # closing a file writes once more, and raises an error of its own
        if isinstance(cause, DiskFull):
            return cause
        cause = cause.__cause__ or cause.__context__
    cause = error
    while cause is not None and not getattr(cause, "filename", None):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, OSError):
        return DiskFull(f"the disk is full: {str(error).splitlines()[0]}", "make room, and try again")
    place = Path(os.fsdecode(cause.filename))
    return DiskFull(f"the disk is full: {place} cannot be written, {free_bytes(place):,} bytes are free", "make room")


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, means a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(text in str(error) for text in FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist; 0 where the system does not tell."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file through the gate: plain yaml, bounded size, a mapping at the top.

    Raises:
        ConfigError: the file is missing or too large, is not yaml, or does not hold a mapping.
    """
    import yaml  # most commands read none

    try:
        content = read_bounded(path, YAML_LIMIT, pipes=True)
        if content is None:
            raise ConfigError([f"{path} is larger than {YAML_LIMIT} bytes, too large for settings"])
        text = content.decode("utf-8")
        if repeated := list(_repeated(yaml.compose(text, Loader=yaml.SafeLoader))):
            raise ConfigError([f"{path} gives {name} twice" for name in repeated], "keep one of them")
        values = yaml.safe_load(text)
        check_plain(values)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not plain yaml: {error}"]) from error
    except (ValueError, RecursionError) as error:  # yaml's own reader recurses, and refuses dates that cannot be
        raise ConfigError([f"{path} cannot be used: {error}"], "write one plain setting per line") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path} must hold a mapping of settings, not a {type(values).__name__}"])
    return values


def _repeated(document: Any) -> Iterator[str]:
    """The keys that a mapping of a yaml document has more than once, as ``stages.0.lr``; yaml would take the last."""
    waiting: list[tuple[Any, str]] = [(document, "")]
    met: set[int] = set()
    for node, place in waiting:  # it grows
        kind = getattr(node, "id", "")
        if id(node) in met or kind not in ("mapping", "sequence"):
            continue
        met.add(id(node))  # an alias stands for what has been looked at, or is being
        if kind == "mapping":
            named = [(str(key.value), value) for key, value in node.value if isinstance(key.value, str)]
            named = [(key, value) for key, value in named if key != "<<"]  # yaml's merge may stand there more than once
            yield from (place + key for key, count in Counter(key for key, _ in named).items() if count > 1)
        else:
            named = [(str(number), value) for number, value in enumerate(node.value)]
        waiting += [(value, f"{place}{key}.") for key, value in named]


def cache_root(given: str | None = None) -> Path:
    """The root of caches: as given, ``$VPGT_CACHE``, or ``vpgt`` in the user's cache folder."""
    if place := given or os.environ.get("VPGT_CACHE"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpgt"

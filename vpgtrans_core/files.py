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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
FULL_TEXTS = ("No space left", "os error 28", "StorageFull", "quota exceeded", "os error 122", "os error 27")
"""Texts of the same errors from libraries that raise their own (safetensors, tokenizers)."""

YAML_LIMIT = 1 << 20
"""Largest yaml file that is read, in bytes."""


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    return sha256_files([path])


def sha256_files(parts: Iterable[str | Path]) -> str:
    """SHA-256 of one file that lies in parts, as if they were joined."""
    digest = hashlib.sha256()
    for part in parts:
        with open(part, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a json object of bounded size.

    Raises:
        ModelError: the file is missing or too large, or does not hold a json object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ModelError(f"{path} is larger than {JSON_LIMIT} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a json object")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a json object, fsynced, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(values, stream, indent=2, sort_keys=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    fsync(path.parent)


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
        if path.stat().st_size > YAML_LIMIT:
            raise ConfigError([f"{path} is larger than {YAML_LIMIT} bytes, too large for settings"])
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def cache_root(given: str | None = None) -> Path:
    """The root of caches: as given, ``$VPGT_CACHE``, or ``vpgt`` in the user's cache folder."""
    if place := given or os.environ.get("VPGT_CACHE"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpgt"

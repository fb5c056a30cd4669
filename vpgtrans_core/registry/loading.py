"""Finds plugins and loads each one in a guard of its own, so that an error in one does not affect the others."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from vpgtrans_core.cards import API_VERSION
from vpgtrans_core.hookspecs import GROUP

Status = Literal["active", "disabled", "incompatible", "broken"]
HOME = "vpgt"
"""The distribution whose plugins come first, so that nobody takes their names."""
_HEAVY = ("torch", "transformers", "tensorflow", "jax")


@dataclass
class PluginRecord:
    """One plugin and its status.

    Attributes:
        status: ``active``, ``disabled`` (by the user), ``incompatible`` (made for another version of the hooks, or
            its name is taken), ``broken``.
        phase: where it stopped: ``discover``, ``import``, ``version``, ``register``, ``hooks`` or ``run``.
        cause: why it is not active.
        warnings: what is wrong with a plugin that works all the same.
        provides: what it adds, as ``"llm family opt"``, ``"llm opt-125m"``, ``"source ..."``...
        seconds: how long loading and asking it took.
        timed_out: whether that was longer than it may take.
        trace: the traceback of `cause`, if there is one.
    """

    name: str
    distribution: str
    version: str
    target: str
    origin: Literal["distribution", "file", "cards"] = "distribution"
    status: Status = "active"
    phase: str = ""
    cause: str = ""
    provides: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    timed_out: bool = False
    trace: str = ""

    def fail(self, status: Status, phase: str, cause: str, error: BaseException | None = None) -> None:
        """Note that the plugin cannot be used, and why."""
        self.status, self.phase, self.cause = status, phase, cause
        self.trace = "".join(traceback.format_exception(error)) if error else ""

    @property
    def failed(self) -> bool:
        """Whether the plugin itself is the cause that it cannot be used, and not the user's wish."""
        return self.status in ("broken", "incompatible")

    @property
    def title(self) -> str:
        """``"plugin 'my_llm' (my-llm 0.1)"``"""
        return f"plugin {self.name!r} ({' '.join(filter(None, (self.distribution, self.version)))})"

    @property
    def verdict(self) -> str:
        """``"broken at import: ModuleNotFoundError: ..."``"""
        phase = f" at {self.phase}" if self.phase else ""
        return f"{self.status}{phase}: {self.cause}"


@dataclass
class Found:
    """A plugin that was found, not yet loaded."""

    record: PluginRecord
    entry: metadata.EntryPoint | None = None
    file: Path | None = None


def find_plugins(files: tuple[str, ...] = ()) -> list[Found]:
    """All plugins in a fixed order: the built-in ones, other distributions' by name, then single files as given."""
    installed = sorted(
        _installed(), key=lambda f: (f.record.distribution != HOME, f.record.name, f.record.distribution)
    )
    return installed + [_single_file(Path(name)) for name in dict.fromkeys(files)]


def _installed() -> Iterator[Found]:
    """Entry points of our group, with a guard around every distribution: damaged metadata must not hide the others."""
    seen = set()
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception:
            continue
        if GROUP not in text:
            continue
        try:
            name, version = distribution.name or "unknown", distribution.version or ""
            entries = [e for e in distribution.entry_points if e.group == GROUP]
        except Exception as error:
            name = getattr(getattr(distribution, "_path", None), "stem", "unknown").partition("-")[0]
            record = PluginRecord(name, name, "", "")
            record.fail("broken", "discover", f"the metadata of its distribution cannot be read: {_say(error)}", error)
            yield Found(record)
            continue
        for entry in entries:
            if (key := (name.lower().replace("_", "-"), entry.name, entry.value)) not in seen:
                seen.add(key)
                yield Found(PluginRecord(entry.name, name, version, entry.value), entry=entry)


def _single_file(path: Path) -> Found:
    record = PluginRecord(path.stem, str(path), "", str(path), origin="file")
    try:
        record.version = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        record.fail("broken", "discover", f"cannot read {path}: {error.strerror}")
    return Found(record, file=path)


def load_plugin(found: Found, limit: float) -> Any | None:
    """Import a plugin and check its API version. Returns None after noting in its record what went wrong."""
    record = found.record
    try:
        with watched(record, limit, "loaded"):
            plugin = _import(found)
        version = getattr(plugin, "VPGT_API", API_VERSION)
    except KeyboardInterrupt:
        raise
    except TooSlow as slow:
        record.fail("broken", "import", f"not loaded {slow}")
        return None
    except BaseException as error:  # a plugin may even call sys.exit
        record.fail("broken", "import", _say(error, record.target), error)
        return None
    if version != API_VERSION:
        cause = f"it needs version {version!r} of the plugin interface (VPGT_API), but this vpgt has {API_VERSION}"
        record.fail("incompatible", "version", cause)
        return None
    return plugin


@contextlib.contextmanager
def watched(record: PluginRecord, limit: float, doing: str) -> Iterator[None]:
    """Run code of a plugin; its record learns how long that took and what it did that it should not do.

    Whatever the plugin prints is kept off stdout, where ``--json`` must stay readable.

    Raises:
        TooSlow: after `limit` seconds (0: never).
    """
    heavy_before = {m for m in _HEAVY if m in sys.modules}
    printed, began = io.StringIO(), time.perf_counter()
    try:
        with contextlib.redirect_stdout(printed), _time_limit(limit):
            yield
    except TooSlow:
        record.timed_out = True
        raise TooSlow(f"after {limit:g} s (VPGT_PLUGIN_TIMEOUT sets the limit)") from None
    finally:
        record.seconds += time.perf_counter() - began
    if heavy := [m for m in _HEAVY if m in sys.modules and m not in heavy_before]:
        record.warnings.append(
            f"imports {heavy[0]} when it is {doing}, which slows down every command: import it where it is used"
        )
    if text := printed.getvalue().strip():
        record.warnings.append(f"prints while it is {doing}: {text.splitlines()[0][:80]!r}")


def _import(found: Found) -> Any:
    if found.entry is not None:
        return found.entry.load()
    assert found.file is not None
    return import_file(found.file)


def import_file(path: Path) -> Any:
    """Import a single-file plugin under its stem, so that it can name its own objects as ``"stem:Object"``.

    Its folder joins the end of ``sys.path``: data workers import it again by name.

    Raises:
        ImportError: the name is not a valid module name, or another module has it.
    """
    name, path = path.stem, path.resolve()
    if path.suffix != ".py" or not name.isidentifier():
        raise ImportError(f"{path.name} is not a valid module name: rename it, for example to my_plugin.py")
    loaded = sys.modules.get(name)
    known = getattr(loaded, "__spec__", None) or (None if loaded else importlib.util.find_spec(name))
    if (loaded or known) and (known is None or not known.origin or Path(known.origin).resolve() != path):
        raise ImportError(f"a module {name!r} already exists: rename {path.name}")
    if loaded:
        return loaded
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class TooSlow(BaseException):
    """A plugin took longer than it may. Not an `Exception`, so that its own guards do not swallow it."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after `seconds`, where that is possible: in the main thread of a system with timers.

    A heavy library that is in the middle of its import is left to finish, because half of it would stay behind and
    spoil it for everybody.
    """
    main = threading.current_thread() is threading.main_thread()
    if not (seconds and main and hasattr(signal, "setitimer")) or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def expired(signum: int, frame: FrameType | None) -> None:
        if any(_half_imported(m) for m in _HEAVY):
            signal.setitimer(signal.ITIMER_REAL, 1.0)
        else:
            raise TooSlow

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _half_imported(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _say(error: BaseException, target: str = "") -> str:
    """The error in one line, with the last place in the plugin's own code."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    package = target.partition(":")[0].partition(".")[0]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _belongs(f.filename, package, target)]
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return " ".join(text.split())[:300] + place


def _belongs(filename: str, package: str, target: str) -> bool:
    return filename == target or (bool(package) and package in Path(filename).with_suffix("").parts)

"""``vpgt doctor``: checks that this machine has what a transfer needs and that every plugin works."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer

from vpgtrans_core.cards import LLMFamily, VPGFamily, load
from vpgtrans_core.cli.listing import SLOW, exit_if_strict
from vpgtrans_core.cli.plugin_probe import Probe, probe_plugin
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.registry import Registry
from vpgtrans_core.registry.loading import PluginRecord

Verdict = Literal["ok", "note", "bad"]
TESTED = {"torch": ("2.11", "2.13"), "transformers": ("5.17", "5.23"), "accelerate": ("1.10", "1.15")}
"""Oldest and newest minor version that the tests ran with; others in the package's ranges may work."""
LOW_DISK = 10 * 2**30
"""With fewer bytes of free disk, the finding is a note."""
HUB_SECONDS = 10


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``ok``, ``note`` (worth reading) or ``bad`` (a transfer cannot work)."""

    topic: str
    verdict: Verdict
    text: str


def add_to(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    hub: Annotated[bool, typer.Option("--hub", help="Check the connection to the Hugging Face hub, too.")] = False,
) -> None:
    """Check this machine, the libraries and every plugin."""
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _libraries, _devices, _machine, _folders]
    checks += [_hub] if hub else []
    findings = [f for check in checks for f in _guarded(check)]
    try:
        registry: Registry | None = ctx.obj.registry
    except VpgtError as error:
        registry = None
        findings.append(
            Finding("plugins", "bad", f"an error in the user's config disables all plugins: {error.message}")
        )
    if registry:
        findings += [f for check in (_plugins, _adapters, _zoo) for f in _guarded(lambda: check(registry))]  # noqa: B023
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        print("\n".join(f"{_MARK[f.verdict]} {f.topic}: {f.text}" for f in findings))
    if any(f.verdict == "bad" for f in findings):
        raise typer.Exit(1)
    if registry:
        exit_if_strict(registry)


_MARK = {"ok": " ok ", "note": "note", "bad": "BAD "}


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check. An error inside it becomes a finding, and the other checks still run."""
    try:
        yield from check()
    except Exception as error:
        name = getattr(check, "__name__", "check").strip("_<>")
        yield Finding(name, "bad", f"the check failed: {type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}, {sys.executable}")


def _libraries() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for text in metadata.requires("vpgt") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "bad", f"not installed; needs {requirement.specifier or 'any version'}")
            continue
        yield _library(requirement.name, version, requirement)


def _library(name: str, version: str, requirement: object) -> Finding:
    from packaging.version import Version

    specifier = requirement.specifier  # type: ignore[attr-defined]
    if not specifier.contains(version, prereleases=True):
        return Finding(name, "bad", f"{version}, but vpgt needs {specifier}")
    if name in TESTED:
        oldest, newest = (Version(v).release[:2] for v in TESTED[name])
        if not oldest <= Version(version).release[:2] <= newest:
            return Finding(name, "note", f"{version}; the tests ran with {' to '.join(TESTED[name])}")
    return Finding(name, "ok", version)


def _devices() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("devices", "note", "torch sees no CUDA device; runs use the CPU")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16, float16 only"
        text = (
            f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {half}, CUDA {torch.version.cuda}"
        )
        yield Finding(f"cuda:{index}", "ok", text)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", "ok", str(cores))
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        free, total = (os.sysconf(n) * page / 2**30 for n in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        yield Finding("memory", "ok", f"{free:.1f} of {total:.1f} GiB free")


def _folders() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for topic, folder in (("here", Path.cwd()), ("feature cache", caches / "vpgt"), ("hub cache", Path(HF_HUB_CACHE))):
        place = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(place).free
        writable = os.access(place, os.W_OK)
        text = f"{folder}, {free / 2**30:.1f} GiB free" + ("" if writable else ", not writable")
        yield Finding(topic, "ok" if writable and free > LOW_DISK else "note", text)


def _hub() -> Iterator[Finding]:
    from urllib.request import urlopen

    from huggingface_hub.constants import ENDPOINT

    try:
        with urlopen(f"{ENDPOINT}/api/models?limit=1", timeout=HUB_SECONDS):
            yield Finding("hub", "ok", f"{ENDPOINT} answers")
    except (OSError, ValueError) as error:
        yield Finding("hub", "note", f"{ENDPOINT} does not answer ({error}); only cached models can be used")


def _plugins(registry: Registry) -> Iterator[Finding]:
    for record in registry.records:
        probe = _probe(record, registry.switches.plugin_timeout)
        text = "; ".join(_health(record, probe))
        yield Finding(f"plugin {record.name}", "ok" if _is_well(record, probe) else "note", text)


def _probe(record: PluginRecord, limit: float) -> Probe | None:
    """Load a plugin alone. None if it was too slow already, or if it is no installed distribution."""
    known = record.timed_out or record.phase == "discover" or record.status == "disabled"
    return None if known or record.origin != "distribution" else probe_plugin(record, limit)


def _is_well(record: PluginRecord, probe: Probe | None) -> bool:
    alone = probe is None or not (probe.timed_out or probe.error or probe.heavy)
    return record.status in ("active", "disabled") and not record.warnings and alone


def _health(record: PluginRecord, probe: Probe | None) -> Iterator[str]:
    yield f"{record.status}, {record.distribution} {record.version}".strip()
    if record.cause:
        yield record.cause
    yield from record.warnings
    if probe is None:
        return
    if probe.timed_out:
        yield f"loading it alone took more than {probe.seconds:.1f} s"
    elif probe.error and not record.cause:
        yield f"loading it alone fails: {probe.error}"
    elif probe.heavy:
        yield f"loading it alone takes {probe.seconds:.2f} s and imports {', '.join(probe.heavy)}"
    elif probe.seconds < SLOW:
        yield f"loads in {1000 * probe.seconds:.0f} ms"
    else:
        yield f"takes {probe.seconds:.1f} s to load"


def _adapters(registry: Registry) -> Iterator[Finding]:
    """Whether the heavy objects that plugins name can be imported."""
    families: list[LLMFamily | VPGFamily] = [*registry.llm_families(), *registry.vpg_families()]
    failed = []
    for target in dict.fromkeys(f.adapter for f in families):
        try:
            load(target)
        except Exception as error:
            failed.append(target)
            yield Finding(f"adapter {target}", "note", f"cannot be imported: {type(error).__name__}: {error}")
    yield Finding("adapters", "ok", f"{len({f.adapter for f in families}) - len(failed)} adapters can be imported")


def _zoo(registry: Registry) -> Iterator[Finding]:
    from vpgtrans_core.models.resolve import resolve_source, resolve_target
    from vpgtrans_core.settings import Settings

    found, lost = [], []
    for known, resolve in [(k, resolve_target) for k in registry.llms()] + [  # type: ignore[misc]
        (k, resolve_source) for k in registry.sources()
    ]:
        if known.card.bundled:
            try:
                resolve(f"{known.plugin}:{known.card.alias}", registry, Settings())
                found.append(known.card.alias)
            except VpgtError as error:
                lost.append(f"{known.card.alias} ({error.message})")
    if lost:
        yield Finding("bundled models", "note", f"missing: {'; '.join(lost)}")
    yield Finding("bundled models", "ok", f"{len(found)} found: {', '.join(found) or 'none'}")

"""Where a run's folder is, and with which settings the run in it goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import Settings, build

FREE_ON_RESUME = frozenset(
    {"resume", "overwrite", "out", "device", "workers", "checkpoint_minutes", "checkpoint_steps", "keep_checkpoints"}
    | {"micro_positions", "offline", "cache", "cache_gb"}
)
"""Settings that may differ when a run is resumed: they do not change what is computed."""


def output_folder(settings: Settings) -> Path:
    """Where the run goes: ``--out``, or ``runs/SOURCE--TARGET``."""
    if settings.out:
        return Path(settings.out).expanduser()
    return Path("runs") / f"{_slug(settings.source)}--{_slug(settings.target)}"


def resumed_settings(settings: Settings) -> Settings:
    """The settings of the run that is resumed, with those of `settings` that may differ.

    Raises:
        ConfigError: there is no such run, or settings are given that would change what it computes; all are listed.
    """
    from vpgtrans_core.run.folder import RunFolder

    if not settings.out and not (settings.source and settings.target):
        raise ConfigError(["resume: which run?"], "name its folder with --out")
    out = output_folder(settings)
    saved = build(RunFolder.reopen(out).record["settings"])
    default = Settings()
    problems, free = [], {}
    for field in dataclasses.fields(Settings):
        given, before = getattr(settings, field.name), getattr(saved, field.name)
        if given == getattr(default, field.name) or given == before:
            continue
        if field.name not in FREE_ON_RESUME:
            problems.append(f"{field.name}: the run in {out} has {before!r}, not {given!r}")
        free[field.name] = given
    if problems:
        raise ConfigError(problems, "resume without these settings, or start a new run with another --out")
    return dataclasses.replace(saved, **{**free, "resume": True, "overwrite": False, "out": str(out)})


def _slug(name: str) -> str:
    return Path(name.rstrip("/")).name.replace(":", "-").replace("@", "-") or "model"

"""A run's output folder, and the settings of a resumed run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.data.places import split_path
from vpgtrans_core.errors import ConfigError, VpgtError
from vpgtrans_core.settings import Settings, build

FREE_ON_RESUME = frozenset(
    {"resume", "overwrite", "out", "device", "workers", "checkpoint_minutes", "checkpoint_steps", "keep_checkpoints"}
    | {"micro_positions", "offline", "cache", "cache_gb", "max_bad_ratio", "max_bad_run", "save", "accept_changes"}
    | {"source_loss", "log", "place", "shard"}
)
"""Settings that may change when a run is resumed, because they do not affect the result of training."""
PLACES = frozenset({"data", "then_data", "val_data", "source", "target"})
"""Settings that name a place: it may change, because the contents are compared with those at the run's start."""


def output_folder(settings: Settings) -> Path:
    """The output folder: ``--out``, or ``runs/SOURCE--TARGET``, or ``runs/SOURCE--tune``."""
    if settings.out:
        return Path(settings.out).expanduser()
    return Path("runs") / f"{_slug(settings.source)}--{_slug(settings.target) if settings.target else settings.method}"


def resumed_settings(settings: Settings) -> Settings:
    """The settings of the resumed run, with the changes in `settings` that are allowed.

    A run that ended before its settings were recorded cannot be resumed: if source and target are given, a new run
    starts, and the settings are returned with ``resume`` off.

    Raises:
        ConfigError: there is no such run, or given settings would change what it computes; all are listed.
    """
    from vpgtrans_core.run.folder import nothing_to_keep, read_record

    complete = settings.source and (settings.target or settings.method == "tune")
    if not settings.out and not complete:
        raise ConfigError(["resume: the run is not named"], "give its folder with --out")
    out = output_folder(settings)
    record = read_record(out)
    if "settings" not in record:
        if complete and nothing_to_keep(out):
            return dataclasses.replace(settings, resume=False)
        raise ConfigError(
            [f"there is no run to resume in {out}: no settings are recorded in it"],
            "give the run's folder with --out; to start a run again that ended at once, give its whole command",
        )
    before_bos: dict[str, Any] = {"bos": "after"}  # where it stood before there was a setting for it
    saved = build(before_bos | {k: v for k, v in record["settings"].items() if k != "resume"})
    default = Settings()
    problems, changed = [], {}
    for field in dataclasses.fields(Settings):
        given, before = getattr(settings, field.name), getattr(saved, field.name)
        if given == getattr(default, field.name) or given == before:
            continue
        if field.name == "stages" and placeless(given) == placeless(before):
            changed[field.name] = given  # only the place of a stage's data differs
            continue
        if field.name not in FREE_ON_RESUME | PLACES and not settings.accept_changes:
            problems.append(f"{field.name}: the run in {out} uses {before!r}, not {given!r}")
        changed[field.name] = given
    if problems:
        raise ConfigError(
            problems,
            "resume without these settings, start a new run with another --out, or change the run with "
            "--accept-changes; run.json records the change",
        )
    own = {"resume": True, "overwrite": False, "out": str(out), "accept_changes": settings.accept_changes}
    return dataclasses.replace(saved, **{**changed, **own})


def ended(settings: Settings) -> dict[str, Any] | None:
    """The record of the run in a folder if it is finished, else None.

    Raises:
        ConfigError: the run is finished, but its model is gone or damaged.
    """
    from vpgtrans_core.run.folder import DONE, read_record

    out = output_folder(settings)
    record = read_record(out)
    if record.get("status") != DONE:
        return None
    if wrong := _wrong_model(out):
        raise ConfigError(
            [f"the run in {out} is finished, but its model is {wrong}"], "train it again with --overwrite"
        )
    return record


def _wrong_model(out: Path) -> str:
    """What is wrong with the files of a finished model, as far as their names and headers tell."""
    from vpgtrans_core.weights import open_safetensors

    files = sorted(out.glob("*.safetensors"))
    if not (out / "config.json").is_file() or not files:
        return "gone"
    for file in files:
        try:
            with open_safetensors(file):
                pass
        except VpgtError as error:
            return f"damaged: {error.message}"
    return ""


def recordable(settings: Settings, **folders: Path | None) -> dict[str, Any]:
    """The settings for the record, with absolute paths, so that a run can be resumed from any folder.

    Args:
        settings: the settings of the run.
        folders: ``source`` and ``target``: the folder of each that is given as a path and not as an alias or hub id.
    """
    values = dataclasses.asdict(settings)
    for name in ("data", "then_data"):
        values[name] = tuple(_absolute_data(path) for path in values[name])
    values["stages"] = None if settings.stages is None else [_absolute_stage(stage) for stage in settings.stages]
    values["val_data"] = _absolute_data(settings.val_data) if settings.val_data else settings.val_data
    if values["template"] and Path(values["template"]).expanduser().is_file():
        values["template"] = _absolute(values["template"])
    for name in ("out", "cache"):
        values[name] = _absolute(values[name]) if values[name] else values[name]
    for name, folder in folders.items():
        if folder is not None and values[name] and Path(values[name]).expanduser().is_dir():
            values[name] = os.path.abspath(folder)
    return values


def placeless(stages: Sequence[Any] | None) -> list[Any]:
    """Stages without the places of their data, whose contents are compared."""
    return [
        {name: value for name, value in stage.items() if name != "data"} if isinstance(stage, Mapping) else stage
        for stage in stages or ()
    ]


def _absolute_stage(stage: Any) -> Any:
    if not isinstance(stage, Mapping) or "data" not in stage:
        return stage
    return {**stage, "data": tuple(_absolute_data(path) for path in stage["data"])}


def _absolute_data(path: str) -> str:
    """``FILE``, ``FILE:FOLDER``, a folder or a pattern of shards, with absolute paths."""
    if "://" in path:
        return path
    file, folder = split_path(path)
    return _absolute(str(file)) + (f":{_absolute(str(folder))}" if folder is not None else "")


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())


def _slug(name: str) -> str:
    return Path(name.rstrip("/")).name.replace(":", "-").replace("@", "-") or "model"

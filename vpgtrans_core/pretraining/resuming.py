"""Continuing a pre-training: the settings of the run that stopped, and whether data and vision tower are the same."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.pretraining.feed import PairFeed
from vpgtrans_core.pretraining.spec import InitSpec
from vpgtrans_core.run.continuing import check_state, resume_stage
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.run.finish import file_hashes
from vpgtrans_core.run.folder import RunFolder, now, read_record
from vpgtrans_core.run.identity import differences, identity_of, refuse_changes
from vpgtrans_core.run.pictures import PictureWatch
from vpgtrans_core.run.resuming import output_folder, resumed_settings
from vpgtrans_core.settings import Settings
from vpgtrans_core.settings.initial import InitSettings
from vpgtrans_core.train.checkpoint import newest_checkpoint
from vpgtrans_core.train.stage import Progress, StageRunner
from vpgtrans_core.validation import check

FREE = frozenset({"out", "save_dtype"})
"""Settings that may change when a run is resumed."""
PLACES = frozenset({"vision", "like"})
"""Those that name a place; what is there is compared."""


def recordable_initial(initial: InitSettings) -> dict[str, Any]:
    """The settings for the record, with absolute paths."""
    values = dataclasses.asdict(initial)
    for name in (*PLACES, "out"):
        if values[name] and (name == "out" or Path(values[name]).expanduser().is_dir()):
            values[name] = os.path.abspath(Path(values[name]).expanduser())
    return values


def resumed(initial: InitSettings, settings: Settings) -> tuple[InitSettings, Settings]:
    """The settings of the run in the output folder, with the changes that are allowed.

    Raises:
        ConfigError: there is no such run, or given settings would change what it computes; all are listed.
    """
    whole = resumed_settings(settings)
    out = output_folder(settings)
    values, problems = check(InitSettings, read_record(out).get("initial") or {})
    if problems or not values:
        raise ConfigError([f"{out} is not the folder of a pre-training", *problems], "name the run's folder with --out")
    saved, default = InitSettings(**values), InitSettings()
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(InitSettings):
        given, before = getattr(initial, field.name), getattr(saved, field.name)
        if given in (getattr(default, field.name), before):
            continue
        if field.name not in FREE | PLACES and not settings.accept_changes:
            problems.append(f"{field.name}: the run in {out} uses {before!r}, not {given!r}")
        changed[field.name] = given
    if problems:
        raise ConfigError(
            problems, "resume without these settings, start a new run with another --out, or give --accept-changes"
        )
    return dataclasses.replace(saved, **changed), whole


def vision_identity(spec: InitSpec) -> dict[str, Any]:
    """The identity of the model whose vision tower is used, with the hashes of its files; empty for none."""
    place, name = spec.vision, spec.initial.vision
    if place is None or name is None:
        return {}
    known = spec.registry.source(name).card if spec.registry.knows_source(name) else None
    return {
        "name": name,
        "origin": place.origin,
        "folder": str(place.folder) if place.folder else None,
        "hub_id": place.hub_id,
        "revision": place.revision,
        "licence": known.licence if known else None,
        "model_type": place.config.get("model_type"),
        **file_hashes(place.folder),
    }


def begun_with(spec: InitSpec, data: TrainingData, vision: dict[str, Any], words: str) -> dict[str, Any]:
    """Everything that affects the result, for the run's checkpoints.

    Args:
        words: the vocabulary's SHA-256.
    """
    own = {name: value for name, value in dataclasses.asdict(spec.initial).items() if name not in FREE | PLACES}
    settings = {**dataclasses.asdict(spec.settings), **own, "the vocabulary": words, "the VPG's sizes": spec.config}
    return identity_of(settings, data.describe(), {"source": vision, "target": {}})


def resume(
    runner: StageRunner, feed: PairFeed, folder: RunFolder, spec: InitSpec, begun: dict[str, Any], reporter: Progress
) -> None:
    """Continue from the newest checkpoint, if the run is resumed and there is one.

    Raises:
        ConfigError: data, vision tower or settings have changed, and the change is not accepted.
        ModelError: the checkpoints are damaged, or of another run.
    """
    settings = spec.settings
    checkpoint = newest_checkpoint(folder.checkpoints, reporter.warning) if settings.resume else None
    pictures = PictureWatch(folder, [feed.all], runner.stepper.accelerator)
    if checkpoint is None:
        folder.cut_metrics(0)
        if settings.resume:
            reporter.message(f"there is no checkpoint in {folder.path}: starting at the first step")
        pictures.keep()
        return
    check_state(checkpoint, [runner.plan.number], folder, accept=settings.accept_changes)
    before = checkpoint.state.get("begun_with") or begun
    changes = [*differences(before, begun), *pictures.replaced(reporter.warning)]
    if refuse_changes(changes, str(folder.path), accept=settings.accept_changes):
        for change in changes:
            reporter.warning(f"continuing with a change: {change}")
        earlier = folder.record.get("accepted_changes", [])
        folder.write_record(accepted_changes=[*earlier, {"at": now(), "changes": changes}])
    pictures.keep()
    resume_stage(runner, feed, checkpoint, micro_positions=False, accept=settings.accept_changes)
    reporter.message(f"resuming after step {checkpoint.step}")

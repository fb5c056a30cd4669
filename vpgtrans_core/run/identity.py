"""The settings, data and model files that a run started with, and whether a resumed run has the same.

Contents are compared by their hashes; their places may change.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.files import sha256_file
from vpgtrans_core.registry.loading import HOME
from vpgtrans_core.run.feed import TrainingData
from vpgtrans_core.run.folder import RunFolder, now
from vpgtrans_core.run.resuming import FREE_ON_RESUME, PLACES, placeless
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import Settings
from vpgtrans_core.train.checkpoint import Checkpoint

MODELS = ("source", "target")
HASHES = ("sha256", "config_sha256", "reading_sha256")


def identity_of(settings: dict[str, Any], data: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """Everything that affects a run's result, as plain values for a checkpoint.

    Args:
        settings: all settings by name.
        data: `TrainingData.describe`.
        models: the identities of ``source`` and ``target`` as in ``run.json``.
    """
    computing = {name: value for name, value in settings.items() if name not in FREE_ON_RESUME | PLACES}
    if computing.get("stages"):
        computing["stages"] = placeless(computing["stages"])
    return {
        "settings": json.loads(json.dumps(computing, default=str)),
        "data": _samples(data),
        **{name: _files(models.get(name)) for name in MODELS},
    }


def recorded(record: dict[str, Any]) -> dict[str, Any]:
    """The same values from ``run.json``, for a checkpoint without them."""
    return identity_of({}, record.get("data", {}), record)


def begun_with(settings: Settings, models: dict[str, Any], data: Sequence[TrainingData]) -> dict[str, Any]:
    """The values that a run starts with, for its checkpoints.

    Args:
        models: the identities of ``source`` and ``target``.
        data: the data of each stage; data shared by stages counts once.
    """
    described = [part.describe() for part in {id(part): part for part in data}.values()]
    merged = {
        "sources": [source for part in described for source in part.get("sources", [])],
        "held_out": {"sources": [s for part in described for s in part.get("held_out", {}).get("sources", [])]},
    }
    begun = identity_of(dataclasses.asdict(settings), merged, models)
    if settings.template and (file := Path(settings.template).expanduser()).is_file():
        begun["settings"]["contents of the template"] = sha256_file(file)
    return begun


def note_changes(
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    now_with: dict[str, Any],
    spec: RunSpec,
    warn: Callable[[str], None],
    replaced: Sequence[str] = (),
) -> None:
    """Refuse to resume if data, models or settings have changed; if a change is accepted, warn and record it. A plugin
    of another version is told.

    Args:
        replaced: what has changed in the files of the pictures, see `run.pictures`.

    Raises:
        ConfigError: see `refuse_changes`.
    """
    before = (checkpoint.state.get("begun_with") if checkpoint else None) or recorded(folder.record)
    if len(before["data"]) < len(now_with["data"]):  # a record holds the run's own data, not that of single stages
        now_with = {**now_with, "data": now_with["data"][: len(before["data"])]}
    for change in changed_plugins(folder.record.get("plugins", []), spec.registry.snapshot()):
        warn(f"continuing with another plugin: {change}")
    changes = [*differences(before, now_with), *replaced]
    if refuse_changes(changes, str(folder.path), accept=spec.settings.accept_changes):
        for change in changes:
            warn(f"continuing with a change: {change}")
        earlier = folder.record.get("accepted_changes", [])
        folder.write_record(accepted_changes=[*earlier, {"at": now(), "changes": changes}])


def refuse_changes(changes: Sequence[str], place: str, *, accept: bool) -> bool:
    """Refuse what has changed since the run in `place` started, unless that is accepted; return whether anything has.

    Raises:
        ConfigError: listing all changes.
    """
    if changes and not accept:
        raise ConfigError(
            [f"{change} (changed since the run in {place} started)" for change in changes],
            "undo the change, start a new run with another --out, or continue anyway with --accept-changes; run.json "
            "records the change",
        )
    return bool(changes)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two identities, in words; a value missing from one of them is skipped."""
    old, new = before.get("settings", {}), now["settings"]
    changes = [
        f"{name}: was {old[name]!r}, is now {new[name]!r}" for name in old if name in new and old[name] != new[name]
    ]
    changes += _changed_data(before.get("data", []), now["data"])
    for model in MODELS:
        changes += _changed_files(model, before.get(model, {}), now[model])
    return changes


def changed_plugins(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which plugins of a run's record have another version now, in words; those that come with vpgt have vpgt's."""
    versions = {plugin["name"]: plugin["version"] for plugin in now if plugin["status"] == "active"}
    return [
        f"{name} was {plugin.get('version') or 'without a version'} when the run started, and is "
        f"{versions[name] or 'without one'} now"
        for plugin in before
        if isinstance(plugin, Mapping)
        and (name := str(plugin.get("name"))) in versions
        and plugin.get("distribution") != HOME
        and plugin.get("version") != versions[name]
    ]


def _samples(data: dict[str, Any]) -> list[dict[str, Any]]:
    """For each source the hash of its keys and captions, their numbers, and the sizes of its shards."""
    sources = list(data.get("sources", []))
    if isinstance(own := data.get("held_out"), dict):
        sources += own.get("sources", [])
    return [
        {
            "path": source.get("path"),
            "sha256": source.get("sha256"),
            "images": source.get("images"),
            "captions": source.get("captions"),
            "shards": {f["name"]: f["bytes"] for f in source.get("files", []) if f["name"].endswith(".tar")},
        }
        for source in sources
    ]


def _files(model: Any) -> dict[str, dict[str, str]]:
    """Hashes of a model's files, by name."""
    model = model if isinstance(model, dict) else {}
    return {kind: dict(model.get(kind) or {}) for kind in HASHES}


def _changed_data(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    if not before:
        return []
    if len(before) != len(now):
        return [f"data: there were {len(before)} sources, now there are {len(now)}"]
    changes = []
    for old, new in zip(before, now, strict=True):
        if old["sha256"] != new["sha256"]:
            changes.append(
                f"data: {new['path']} holds other images or captions: {old['images']} images with {old['captions']} "
                f"captions before, {new['images']} with {new['captions']} now"
            )
        elif old["shards"] != new["shards"]:
            changes.append(f"data: the shards of {new['path']} have other names or sizes")
    return changes


def _changed_files(model: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changes = []
    for kind in HASHES:
        old, new = before.get(kind) or {}, now.get(kind) or {}
        if not old or not new:
            continue  # an older version of vpgt did not record them
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if names:
            changes.append(f"{model}: changed contents in {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")
    return changes

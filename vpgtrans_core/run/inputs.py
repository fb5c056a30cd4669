"""What a command reads must not lie in the folder that it empties."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vpgtrans_core.data.places import split_path
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import Settings, stage_settings

Input = tuple[str, str | Path | None]
"""The name of a setting, and what it names."""


def inputs_of(spec: RunSpec) -> list[Input]:
    """The files and folders that a run reads. Those of a resumed run are none: its folder stays."""
    if spec.settings.resume:
        return []
    models = (("source", spec.source), ("target", spec.target))
    found: list[Input] = [(name, model.folder) for name, model in models]
    if spec.source.llm:
        found.append(("the source's LLM", spec.source.llm.folder))
    for settings in (spec.settings, *(stage_settings(spec.settings, stage) for stage in spec.stages)):
        found += data_of(settings)
    return [*found, ("template", spec.settings.template)]


def data_of(settings: Settings) -> list[Input]:
    """The files and folders of the data that settings name."""
    paths = [*settings.data, *settings.then_data, *([settings.val_data] if settings.val_data else [])]
    return [("data", part) for path in paths for part in split_path(path) if part is not None]


def refuse_inside(out: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output folder that is, or holds, what is read: a new run removes all that an earlier one left there.

    Raises:
        ConfigError: naming each.
    """
    if not os.path.isdir(out):  # unlike Path's, it takes any name
        return
    folder = out.resolve()
    inside = {name: Path(path) for name, path in inputs if path and Path(path).resolve().is_relative_to(folder)}
    problems = [f"{name}: {path} lies in the output folder {out}, which is emptied" for name, path in inside.items()]
    if problems:
        raise ConfigError(problems, "choose another --out")

"""From experiments to cells: one cell is one run, with a name that says which and a hash of all that makes it so.

Cells that several experiments share are the same cell. No torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.lab.experiment import Experiment, machine_settings
from vpgtrans_core.models.resolve import check_names
from vpgtrans_core.recipes.lists import RECIPES
from vpgtrans_core.registry import Registry


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        id: its folder's name.
        source: the source as the experiment names it; the pre-trained VPG where the arm needs no source.
        needs: the id of the cell that trains the source, empty for a model that exists.
        vpg: the pre-trained VPG of the experiment.
        settings: every setting that the lab gives the run; places are filled in when it starts.
        pictures, points, tasks, generate: as in `Experiment`.
    """

    id: str
    source: str
    target: str
    arm: str
    seed: int
    needs: str
    vpg: str
    settings: dict[str, Any]
    pictures: int | None
    points: str
    tasks: dict[str, dict[str, Any]]
    generate: dict[str, Any]


def cells(experiment: Experiment) -> list[Cell]:
    """All cells of an experiment, sources first, each once."""
    found: dict[str, Cell] = {}
    sources = {name: _source_cell(experiment, name) for name in experiment.made}
    for pair in experiment.all_pairs():
        made = sources.get(pair.source)
        for name in experiment.arms:
            if made is not None and experiment.arm(name).needs_source:
                found[made.id] = made
            for seed in experiment.seeds:
                cell = _cell(experiment, pair.source, pair.target, name, seed, made)
                found[cell.id] = cell
    return list(found.values())


def check_models(experiments: Sequence[Experiment], registry: Registry) -> None:
    """Refuse names that no model can have, before anything is run.

    Raises:
        ModelError: naming all of them. ConfigError: a task is not known.
    """
    problems = []
    for experiment in experiments:
        names = [experiment.vpg, *(made.llm for made in experiment.made.values())]
        for pair in experiment.all_pairs():
            names += [pair.target, *([] if pair.source in experiment.made else [pair.source])]
        check_names([name for name in names if name], registry, machine_settings(experiment))
        for task in experiment.tasks:
            try:
                registry.eval_task(task)
            except Exception as error:
                problems.append(f"{experiment.name}: {str(error).splitlines()[0]}")
    if problems:
        raise ConfigError(problems, "`vpgt eval --list` shows all tasks")


def _source_cell(experiment: Experiment, name: str) -> Cell:
    """The run that trains a source; always with seed 0 and never scored, so that all cells of all experiments share
    it."""
    made = experiment.made[name]
    settings = _settings(experiment, "source", 0, made.epochs or experiment.epochs)
    untested = replace(experiment, tasks={}, generate={})
    return _named(untested, experiment.vpg, made.llm, "source", 0, "", settings, "end")


def _cell(experiment: Experiment, source: str, target: str, arm: str, seed: int, made: Cell | None) -> Cell:
    settings = _settings(experiment, arm, seed, experiment.epochs)
    if not experiment.arm(arm).needs_source:
        source, made = experiment.vpg, None
    needs = made.id if made else ""
    return _named(experiment, source, target, arm, seed, needs, settings, experiment.points)


def _settings(experiment: Experiment, name: str, seed: int, epochs: float) -> dict[str, Any]:
    """The settings of one run: the recipe's, the experiment's, the arm's, and what they make of the lengths."""
    arm = experiment.arm(name)
    recipe = RECIPES[experiment.recipe]
    tuning = recipe.fine_tuning
    values: dict[str, Any] = {
        **recipe.settings,
        "stage2_lr": tuning.lr,
        "stage2_min_lr": tuning.min_lr,
        "stage2_lr_warmup_steps": tuning.lr_warmup_steps,
        "stage2_lr_warmup_start": tuning.lr_warmup_start,
        "early_stop": False,
        **experiment.settings,
        "save": "vpg",
        "seed": seed,
    }
    values["stage1_lr"] = arm.rate * float(values["stage2_lr"])
    return values | arm.lengths(epochs, experiment.warm_up_epochs) | dict(arm.settings)


def _named(
    experiment: Experiment, source: str, target: str, arm: str, seed: int, needs: str, settings: dict[str, Any],
    points: str,
) -> Cell:  # fmt: skip
    tasks = {name: asdict(use) for name, use in experiment.tasks.items()}
    shared = {"pictures": experiment.pictures, "points": points, "tasks": tasks, "generate": experiment.generate}
    whole = {"source": source, "target": target, "arm": arm, "needs": needs, "settings": settings, **shared}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:8]
    start = "" if arm in ("scratch", "source") else f"{slug(source)}--"
    identity = f"{start}{slug(target)}--{slug(arm)}--s{seed}-{digest}"
    return Cell(identity, source, target, arm, seed, needs, experiment.vpg, settings, **shared)  # type: ignore[arg-type]


def slug(name: str) -> str:
    """A name as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name) or "model"


def distinct(experiments: Iterable[Experiment]) -> dict[str, Cell]:
    """The cells of all experiments by id: seed by seed, so that a part of them is a whole matrix of fewer seeds, and
    those first that others need."""
    every = {cell.id: cell for experiment in experiments for cell in cells(experiment)}
    return dict(sorted(every.items(), key=lambda item: (item[1].seed, bool(item[1].needs))))

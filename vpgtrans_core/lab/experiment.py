"""An experiment file: which sources, targets, arms and seeds are crossed, on what data, scored on which tasks.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from vpgtrans_core.errors import ConfigError, did_you_mean
from vpgtrans_core.files import read_yaml
from vpgtrans_core.lab.arms import ARMS, Arm
from vpgtrans_core.lab.paper import table
from vpgtrans_core.recipes.stage import Amount, Positive, Rate
from vpgtrans_core.settings import Settings, build
from vpgtrans_core.validation import check

Points = Literal["epoch", "end"]


@dataclass(frozen=True)
class Pair:
    """One source and one target; `paper` names the rows of the paper's table 3 that it is a counterpart of."""

    source: str
    target: str
    paper: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A source that the experiment trains itself, from the pre-trained VPG: with which LLM, and for how long."""

    llm: str
    epochs: Amount | None = None


@dataclass(frozen=True)
class TaskUse:
    """How an evaluation task is used: how many of its samples, its files, the metric that counts."""

    limit: Positive | None = None
    data: tuple[str, ...] = ()
    metric: str | None = None


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: of the experiment, unique in a lab's folder.
        about: what it is to show.
        recipe: whose values open settings take: ``paper`` or ``miniature``.
        vpg: the pre-trained VPG, from which training from scratch and made sources start.
        made: sources that are trained here, by name.
        sources, targets: crossed with each other, beside the `pairs`.
        arms: names of arms, of the library or of `define`.
        define: arms of the experiment's own: settings by name.
        seeds: random seeds.
        epochs, warm_up_epochs: of each run, and of its first stage.
        points: where tasks are scored: after every epoch, or at the end.
        pictures: train on the first so many of the miniature's pictures, instead of ``data`` in `settings`.
        settings: of every run, as in a settings file.
        tasks: evaluation tasks by name.
        generate: changes to the paper's generation (``num_beams`` and so on).
        price: US dollars an hour of this machine, for the table of costs.
    """

    name: str
    about: str = ""
    recipe: Literal["paper", "miniature"] = "paper"
    vpg: str = ""
    made: dict[str, Made] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    arms: tuple[str, ...] = ()
    define: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    epochs: Rate = 1.0
    warm_up_epochs: Amount = 1.0
    points: Points = "epoch"
    pictures: Positive | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, TaskUse] = field(default_factory=dict)
    generate: dict[str, Any] = field(default_factory=dict)
    price: Annotated[float, Gt(0)] | None = None

    def arm(self, name: str) -> Arm:
        """The arm of that name: the experiment's own, or the library's."""
        if name in self.define:
            own = self.define[name]
            return Arm(own.get("title", name), own.get("settings", {}), own.get("length", "both"),
                       float(own.get("rate", 5.0)))  # fmt: skip
        return ARMS[name]

    def all_pairs(self) -> list[Pair]:
        """`pairs`, and every source with every target."""
        return [*self.pairs, *(Pair(source, target) for source in self.sources for target in self.targets)]


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file. A model that lies beside the file (``./NAME``) is looked up from there.

    Raises:
        ConfigError: listing every unknown key and every wrong value.
    """
    values = read_yaml(path)
    values.setdefault("name", path.stem)
    inner = {name: values.pop(name, None) for name in ("made", "pairs", "tasks")}
    given, problems = check(Experiment, values, kind="key", leave_out=tuple(inner))
    made, wrong = _each("made", inner["made"], Made)
    tasks, more = _each("tasks", inner["tasks"], TaskUse)
    pairs, others = _pairs(inner["pairs"])
    problems += wrong + more + others
    if not problems:
        experiment = Experiment(**given, made=made, tasks=tasks, pairs=pairs)
        problems = _problems(experiment)
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems], "docs/lab.md explains every key")
    return _beside(experiment, path.parent)


def _each(key: str, given: Any, cls: type) -> tuple[dict[str, Any], list[str]]:
    """A mapping of names to objects of a dataclass."""
    if given is None:
        return {}, []
    if isinstance(given, list) and cls is TaskUse:
        given = dict.fromkeys(map(str, given), None)
    if not isinstance(given, Mapping):
        return {}, [f"{key}: must be a mapping of names"]
    found, problems = {}, []
    for name, values in given.items():
        if not isinstance(values or {}, Mapping):
            problems.append(f"{key}: {name}: must be a mapping")
            continue
        good, wrong = check(cls, values or {}, kind="key")
        problems += [f"{key}: {name}: {problem}" for problem in wrong]
        try:
            found[str(name)] = cls(**good)
        except TypeError:
            problems.append(f"{key}: {name}: the key llm is missing")
    return found, problems


def _pairs(given: Any) -> tuple[tuple[Pair, ...], list[str]]:
    """Pairs as mappings ``{from, to, paper}``."""
    pairs, problems = [], []
    for item in given if isinstance(given, list) else [given] if given is not None else []:
        renamed = item.items() if isinstance(item, Mapping) else ()
        values = {{"from": "source", "to": "target"}.get(str(key), str(key)): value for key, value in renamed}
        good, wrong = check(Pair, values, kind="key")
        if wrong or not {"source", "target"} <= set(good):
            problems += [f"pairs: {problem}" for problem in wrong] or [f"pairs: {item!r} has no from and to"]
        else:
            pairs.append(Pair(**good))
    return tuple(pairs), problems


def _problems(experiment: Experiment) -> list[str]:
    """What does not fit together."""
    problems = []
    known = [*experiment.define, *(name for name in ARMS if name != "source")]
    for name in experiment.arms:
        if name not in known:
            problems.append(
                f"arms: unknown arm {name!r}; {did_you_mean(name, known) or 'there are ' + ', '.join(known)}"
            )
    for name, own in experiment.define.items():
        _, wrong = check(Arm, own if isinstance(own, Mapping) else {"settings": own}, kind="key")
        problems += [f"define: {name}: {problem}" for problem in wrong]
    if not experiment.all_pairs() or not experiment.arms or not experiment.seeds:
        problems.append("nothing to run: give pairs (or sources and targets), arms and seeds")
    if experiment.made and not experiment.vpg:
        problems.append("vpg is missing: made sources start from a pre-trained VPG")
    if "scratch" in experiment.arms and not experiment.vpg:
        problems.append("vpg is missing: the arm scratch starts from a pre-trained VPG")
    if experiment.warm_up_epochs > experiment.epochs:
        problems.append("warm_up_epochs: must not be more than epochs")
    for row in (row for pair in experiment.pairs for row in pair.paper):
        if row not in table():
            guess = did_you_mean(row, table()) or f"there are {', '.join(table())}"
            problems.append(f"pairs: paper: the paper's table 3 has no row {row!r}; {guess}")
    if experiment.pictures and "data" in experiment.settings:
        problems.append("pictures and data: give one of the two")
    return problems + _settings_problems(experiment)


def _settings_problems(experiment: Experiment) -> list[str]:
    """What is wrong with the settings of the runs, the arms' included."""
    ours = {"source", "target", "from", "to", "out", "seed", "resume", "overwrite", "method"} & set(experiment.settings)
    problems = [f"settings: {name} is the lab's own" for name in sorted(ours)]
    for name in dict.fromkeys(("", *experiment.arms)):
        if name and name not in experiment.define:
            continue
        arm = dict(experiment.arm(name).settings) if name and isinstance(experiment.define[name], Mapping) else {}
        try:
            build({**experiment.settings, **arm})
        except ConfigError as error:
            where = f"define: {name}" if name else "settings"
            problems += [f"{where}: {problem}" for problem in error.problems]
    return problems


def _beside(experiment: Experiment, folder: Path) -> Experiment:
    """Names of models that begin with ``./`` become folders beside the experiment's file."""

    def place(name: str) -> str:
        return str((folder / name).resolve()) if name.startswith("./") else name

    return replace(
        experiment,
        vpg=place(experiment.vpg),
        made={name: replace(made, llm=place(made.llm)) for name, made in experiment.made.items()},
        sources=tuple(map(place, experiment.sources)),
        targets=tuple(map(place, experiment.targets)),
        pairs=tuple(replace(p, source=place(p.source), target=place(p.target)) for p in experiment.pairs),
    )


def machine_settings(experiment: Experiment) -> Settings:
    """The settings that say where models are read and computed."""
    names = ("device", "dtype", "quantization", "offline", "trust_remote_code")
    return build({name: experiment.settings[name] for name in names if name in experiment.settings})

"""How rules see what the cells have measured: two measures of a pair, or one of pairs of neighbouring sizes. No torch.

A `Measure` gives each finished run one number. `Compare` holds two of them against each other, pair by pair and seed by
seed; `Neighbours` holds one measure of a pair against that of the pair with the next larger LLM. Whether it holds is
judged by the middle of the seeds, and told with their spread and with how many seeds say the same by themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.lab.experiment import Pair
from vpgtrans_core.lab.results import Finished, Results, mean, name_of, spread
from vpgtrans_core.lab.speedup import speed_up
from vpgtrans_core.lab.tasks import is_caption_task

Holds = Callable[[float, float], bool]
Tasks = Callable[[Results], list[str]]


@dataclass(frozen=True)
class Evidence:
    """One comparison.

    Attributes:
        text: what was compared, in words with figures.
        holds: whether the finding holds in it.
        seeds, agreeing: how many seeds it rests on, and in how many of them alone it holds.
    """

    text: str
    holds: bool
    seeds: int
    agreeing: int

    def __str__(self) -> str:
        alone = "" if self.seeds == 1 else f"; in {self.agreeing} of {self.seeds} seeds"
        return f"{self.text} ({'holds' if self.holds else 'does not hold'}{alone})"


# Which tasks a measure looks at


def captions(results: Results) -> list[str]:
    return [task for task in results.tasks if is_caption_task(task)]


def first_captions(results: Results) -> list[str]:
    return captions(results)[:1]


def questions(results: Results) -> list[str]:
    return [task for task in results.tasks if not is_caption_task(task)]


def no_tasks(results: Results) -> list[str]:
    return []


# Measures


@dataclass(frozen=True)
class Measure:
    """One number of each finished run of an arm.

    Attributes:
        arm: whose runs.
        value: the number of a run, None where it has none; `tasks` says which tasks it is the mean over.
        name: what it is called beside the figures; default the arm's name.
        factor, digits: how the figures are printed.
    """

    arm: str
    value: Callable[[Results, Pair, Finished, Sequence[str]], float | None]
    tasks: Tasks = no_tasks
    name: str = ""
    factor: float = 1.0
    digits: int = 2

    def by_seed(self, results: Results, pair: Pair) -> dict[int, float]:
        """The value of every seed that has one."""
        tasks = self.tasks(results)
        found = {f.cell.seed: self.value(results, pair, f, tasks) for f in results.of(pair, self.arm)}
        return {seed: value for seed, value in found.items() if value is not None}

    def told(self, values: Iterable[float]) -> str:
        return f"{self.name or self.arm} {spread(list(values), self.digits, self.factor)}"


def at_end(arm: str, tasks: Tasks) -> Measure:
    """The score at the end, times 100."""
    return Measure(arm, lambda r, p, run, names: _mean(run.final(n) for n in names), tasks, factor=100, digits=1)


def after_epoch(epochs: float, arm: str) -> Measure:
    """The score on the first task of captions after some epochs, times 100."""
    return Measure(
        arm, lambda r, p, run, names: _mean(run.after(n, epochs) for n in names), first_captions, factor=100, digits=1
    )


def of_its_own_picture(arm: str) -> Measure:
    """By how much captions score higher than the same captions under other pictures, at the end, times 100."""
    return Measure(
        arm, lambda r, p, run, names: _mean(run.own_picture(n) for n in names), captions, factor=100, digits=1
    )


def looks(what: str, name: str) -> Measure:
    """A measure of the soft prompts of a model trained as in the paper."""
    return Measure("transfer", lambda r, p, run, names: (run.record.get("prompts") or {}).get(what), name=name)


def rise(arm: str) -> Measure:
    """The largest rise of the held-out loss over its lowest value so far; infinite where a loss is not finite."""
    return Measure(arm, lambda r, p, run, names: _rise(run), digits=3)


def faster(arm: str) -> Measure:
    """The speed-up over training from scratch with the same seed; 0 where its best score is never reached."""
    return Measure(arm, _faster, first_captions, digits=1)


def one(arm: str, name: str) -> Measure:
    """1, to compare speed-ups with."""
    return Measure(arm, lambda r, p, run, names: 1.0, name=name, digits=0)


def _faster(results: Results, pair: Pair, run: Finished, tasks: Sequence[str]) -> float | None:
    scratch = next((f for f in results.of(pair, "scratch") if f.cell.seed == run.cell.seed), None)
    curves = [(scratch.curve(task), run.curve(task)) for task in tasks] if scratch else []
    return _mean((speed_up(*both) or 0.0) if all(both) else None for both in curves)


def _rise(run: Finished) -> float | None:
    losses = [loss for _, loss in run.losses()]
    if any(loss is None or loss != loss for loss in losses):
        return float("inf")
    lowest = itertools.accumulate(losses, min)
    return max((loss - low for loss, low in zip(losses, lowest, strict=True)), default=None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


# What a rule compares


@dataclass(frozen=True)
class Compare:
    """Two measures of every pair, seed by seed.

    Attributes:
        holds: whether the finding holds for a value of each.
        where: what is measured, before the figures.
        pairs: which pairs are compared; default all.
        middle: what stands for the seeds.
    """

    one: Measure
    other: Measure
    holds: Holds
    where: str = ""
    pairs: Callable[[Results], list[Pair]] = Results.pairs
    middle: Callable[[Sequence[float]], float] = mean

    def __call__(self, every: Sequence[Results]) -> Iterator[Evidence]:
        for results in every:
            for pair in self.pairs(results) if results.has(self.one.arm, self.other.arm) else ():
                ones, others = self.one.by_seed(results, pair), self.other.by_seed(results, pair)
                seeds = [seed for seed in ones if seed in others]
                if seeds:
                    yield self._evidence(pair, [ones[s] for s in seeds], [others[s] for s in seeds])

    def _evidence(self, pair: Pair, ones: list[float], others: list[float]) -> Evidence:
        where = f", {self.where}" if self.where else ""
        text = f"{name_of(pair)}{where}: {self.one.told(ones)}, {self.other.told(others)}"
        agreeing = sum(map(self.holds, ones, others))
        return Evidence(text, self.holds(self.middle(ones), self.middle(others)), len(ones), agreeing)


@dataclass(frozen=True)
class Neighbours:
    """One measure of pairs that differ in size, each against the next larger one.

    Attributes:
        group: what pairs have in common that are compared, and None for pairs that are not.
        size: by which size they are ordered.
        holds: whether the finding holds for the value of the smaller and that of the larger.
        middle: what stands for the seeds.
    """

    measure: Measure
    group: Callable[[Pair, Mapping[str, Any]], object]
    size: Callable[[Mapping[str, Any]], int]
    holds: Holds
    middle: Callable[[Sequence[float]], float] = mean

    def __call__(self, every: Sequence[Results]) -> Iterator[Evidence]:
        groups: dict[object, dict[Pair, tuple[int, dict[int, float]]]] = {}
        for results in every:
            for pair in results.pairs() if results.has(self.measure.arm) else ():
                found, values = results.of(pair, self.measure.arm), self.measure.by_seed(results, pair)
                if found and values and (group := self.group(pair, found[0].record["sizes"])) is not None:
                    sized = self.size(found[0].record["sizes"]), values
                    groups.setdefault(group, {}).setdefault(pair, sized)
        for known in groups.values():
            ordered = sorted(known.items(), key=lambda item: (item[1][0], name_of(item[0])))
            for (pair, (small, values)), (other, (large, others)) in itertools.pairwise(ordered):
                if small < large:
                    yield self._evidence((pair, values), (other, others))

    def _evidence(self, small: tuple[Pair, dict[int, float]], large: tuple[Pair, dict[int, float]]) -> Evidence:
        (pair, values), (other, others) = small, large
        told = [self.measure.told(some.values()) for some in (values, others)]
        text = f"{name_of(pair)}: {told[0]}; {name_of(other)}: {told[1]}"
        seeds = [seed for seed in values if seed in others]
        agreeing = sum(self.holds(values[seed], others[seed]) for seed in seeds)
        middles = [self.middle(list(some.values())) for some in (values, others)]
        return Evidence(text, self.holds(*middles), len(seeds), agreeing)


def largest_target(results: Results) -> list[Pair]:
    """The pairs with the largest target of an experiment."""
    sized = {pair: runs[0].record["sizes"]["target_llm"] for pair in results.pairs() if (runs := results.any_of(pair))}
    return [pair for pair, size in sized.items() if size == max(sized.values())]

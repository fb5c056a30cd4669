"""The paper's findings, each judged by a rule: the rule is code, and its text stands in the report. No torch.

A rule looks at all experiments of the laboratory. It gives evidence only where the cells that it compares are
finished; without evidence a finding is *not testable here*. With evidence it is *reproduced* if it holds in more than
half of the comparisons, and otherwise *not reproduced*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vpgtrans_core.lab.experiment import Pair
from vpgtrans_core.lab.results import Finished, Results, mean
from vpgtrans_core.lab.speedup import speed_ups
from vpgtrans_core.lab.tasks import is_caption_task

Verdict = Literal["reproduced", "not reproduced", "not testable here"]


@dataclass(frozen=True)
class Evidence:
    """One comparison: what was compared, in words with figures, and whether the finding holds in it."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Finding:
    """One finding of the paper with the rule that judges it.

    Attributes:
        number: as in the report; letters are parts of one finding.
        says: what the paper says.
        rule: when a comparison counts as holding, in words.
        evidence: what the rule saw.
    """

    number: str
    says: str
    rule: str
    evidence: tuple[Evidence, ...]

    @property
    def verdict(self) -> Verdict:
        if not self.evidence:
            return "not testable here"
        holding = sum(one.holds for one in self.evidence)
        return "reproduced" if 2 * holding > len(self.evidence) else "not reproduced"


Rule = Callable[[Sequence[Results]], Iterator[Evidence]]
_RULES: list[tuple[str, str, str, Rule]] = []


def _finding(number: str, says: str, rule: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        _RULES.append((number, says, rule, function))
        return function

    return add


def findings(every: Sequence[Results]) -> list[Finding]:
    """All findings, judged. An experiment whose cells are all another's too adds nothing, and a comparison that several
    experiments make with the same figures counts once."""
    ids = [{cell.id for cell in results.cells} for results in every]
    whole = [results for results, own in zip(every, ids, strict=True) if not any(own < other for other in ids)]
    return [Finding(number, says, rule, tuple(dict.fromkeys(see(whole)))) for number, says, rule, see in _RULES]


# What rules compare


def _finals(found: Sequence[Finished], task: str) -> list[float]:
    return [score for f in found if (score := f.final(task)) is not None]


def _named(pair: Pair) -> str:
    return f"{_last(pair.source)} → {_last(pair.target)}"


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _compare(
    every: Sequence[Results], one: str, other: str, captions: bool, holds: Callable[[float, float], bool]
) -> Iterator[Evidence]:
    """Final scores of two arms on all tasks of a kind, averaged over tasks and seeds, one comparison a pair."""
    for results in every:
        tasks = [task for task in results.tasks if is_caption_task(task) == captions]
        for pair in results.pairs() if results.has(one, other) else ():
            both = [(_finals(results.of(pair, one), t), _finals(results.of(pair, other), t)) for t in tasks]
            full = [(mean(a), mean(b)) for a, b in both if a and b]
            if full:
                a, b = mean([x for x, _ in full]), mean([y for _, y in full])
                kind = "captions" if captions else "questions"
                text = f"{_named(pair)}, {kind}: {one} {100 * a:.1f}, {other} {100 * b:.1f}"
                yield Evidence(text, holds(a, b))


def _compare_early(every: Sequence[Results], one: str, other: str, epochs: float, least: float) -> Iterator[Evidence]:
    """Caption scores of two arms after some epochs; it holds if the first is at least `least` times the other."""
    for results in every:
        tasks = [task for task in results.tasks if is_caption_task(task)]
        for pair in results.pairs() if results.has(one, other) else ():
            for task in tasks[:1]:
                a = [s for f in results.of(pair, one) if (s := f.after(task, epochs)) is not None]
                b = [s for f in results.of(pair, other) if (s := f.after(task, epochs)) is not None]
                if a and b:
                    text = (
                        f"{_named(pair)}, {task} after epoch {epochs:g}: "
                        f"{one} {100 * mean(a):.1f}, {other} {100 * mean(b):.1f}"
                    )
                    yield Evidence(text, mean(a) >= least * mean(b))


# The rules, in the order of the report


@_finding(
    "1a",
    "Inheriting the VPG speeds training up.",
    "VPG-inherit's median speed-up over training from scratch, on the first task of captions, is above 1.",
)
def _inherit_is_faster(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _faster(every, "inherit")


@_finding(
    "1b",
    "With a random projector, inheriting damages fine perception: questions fall below training from scratch.",
    "VPG-inherit's final score on questions, averaged over tasks and seeds, is below that of training from scratch.",
)
def _inherit_damages(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare(every, "inherit", "scratch", False, lambda a, b: a < b)


@_finding(
    "2a",
    "Warming the projector up first prevents the damage.",
    "VPGTrans's final score on questions is at least that of training from scratch.",
)
def _warm_up_prevents(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare(every, "transfer", "scratch", False, lambda a, b: a >= b)


@_finding(
    "2b",
    "The converter's initialisation speeds the warm-up.",
    "After the first epoch of the warm-up at 1x the rate, captions score higher with the converter than without.",
)
def _converter_helps(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare_early(every, "warm-up-1x", "warm-up-random-1x", 1, 1.0001)


@_finding(
    "2c",
    "Five times the rate speeds the warm-up.",
    "After the first epoch of the warm-up with the converter, captions score higher at 5x than at 1x the rate.",
)
def _five_times(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare_early(every, "warm-up-5x", "warm-up-1x", 1, 1.0001)


@_finding(
    "2d",
    "Ten times the rate brings nothing more, and does not crash.",
    "After the first epoch, 10x scores at most a twentieth above 5x, and not below half of it.",
)
def _ten_times(every: Sequence[Results]) -> Iterator[Evidence]:
    ahead = _compare_early(every, "warm-up-10x", "warm-up-5x", 1, 1.05)
    alive = _compare_early(every, "warm-up-10x", "warm-up-5x", 1, 0.5)
    for more, lives in zip(ahead, alive, strict=True):
        yield Evidence(more.text, lives.holds and not more.holds)


@_finding(
    "3",
    "Training the projector alone underfits captions.",
    "Only-linear's final score on captions, averaged over tasks and seeds, is below VPGTrans's.",
)
def _linear_underfits(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare(every, "linear", "transfer", True, lambda a, b: a < b)


@_finding(
    "4a",
    "Soft prompts have about ten times the norm of word embeddings.",
    "In a model trained by VPGTrans, the mean norm of soft prompts is 5 to 20 times that of the captions' words.",
)
def _norms(every: Sequence[Results]) -> Iterator[Evidence]:
    for _, pair, found in _prompts(every):
        ratio = mean([f.record["prompts"]["prompt_norm"] / f.record["prompts"]["word_norm"] for f in found])
        yield Evidence(f"{_named(pair)}: {ratio:.1f} times", 5 <= ratio <= 20)


@_finding(
    "4b",
    "The merged projector without any training gives random output.",
    "Captions of the untrained merged projector score less than a tenth of VPGTrans's at its end.",
)
def _merged_is_random(every: Sequence[Results]) -> Iterator[Evidence]:
    yield from _compare(every, "merged", "transfer", True, lambda a, b: a < 0.1 * b)


@_finding(
    "5",
    "The smaller the source's LLM, the better its VPG transfers (projector alone).",
    "Of two sources of one family for the same target, the one with the smaller LLM has the higher final score on "
    "captions by only-linear.",
)
def _small_sources(every: Sequence[Results]) -> Iterator[Evidence]:
    for results in every:
        task = next((t for t in results.tasks if is_caption_task(t)), None)
        targets = dict.fromkeys(p.target for p in results.pairs()) if task and results.has("linear") else {}
        for target in targets:
            yield from _sizes_in_order(results, target, str(task))


def _sizes_in_order(results: Results, target: str, task: str) -> Iterator[Evidence]:
    """Neighbouring sizes of sources for one target, smallest first."""
    known = []
    for pair in results.pairs():
        found = results.of(pair, "linear") if pair.target == target else []
        if found and (scores := _finals(found, task)):
            sizes = found[0].record["sizes"]
            known.append((sizes["source_family"], sizes["source_llm"], pair, mean(scores)))
    known.sort(key=lambda one: (one[0], one[1]))
    for small, large in itertools.pairwise(known):
        if small[0] == large[0] and small[1] < large[1]:
            text = f"{_named(small[2])}: {100 * small[3]:.1f}, from {_last(large[2].source)} {100 * large[3]:.1f}"
            yield Evidence(text, small[3] > large[3])


@_finding(
    "6",
    "Across types of LLM, speed-up appears between large LLMs only.",
    "Of two transfers across types, the one whose smaller LLM is the smallest has a median speed-up of at most 1 on "
    "the first task of captions, while the other's is above 1.",
)
def _across_types(every: Sequence[Results]) -> Iterator[Evidence]:
    found = []
    for results in every:
        task = next((t for t in results.tasks if is_caption_task(t)), None)
        for pair in results.pairs() if task and results.has("scratch", "transfer") else ():
            runs = results.of(pair, "transfer")
            typical = speed_ups(results, pair, "transfer", str(task)).typical
            if runs and typical is not None and _across(runs[0]):
                sizes = runs[0].record["sizes"]
                found.append((min(sizes["source_llm"], sizes["target_llm"]), typical, _named(pair)))
    found.sort()
    for small, large in itertools.pairwise(found):
        if small[0] < large[0]:
            yield Evidence(f"{small[2]}: {small[1]:.1f}x; {large[2]}: {large[1]:.1f}x", small[1] <= 1 < large[1])


def _across(run: Finished) -> bool:
    sizes = run.record["sizes"]
    return sizes["source_family"] != sizes["target_family"]


@_finding(
    "7",
    "Larger targets train more stably with transfer.",
    "For the largest target of an experiment, the held-out loss of training from scratch rises above its lowest value "
    "so far by more than 0.05 and by more than twice what VPGTrans's does (the mean over seeds), or is not finite.",
)
def _stability(every: Sequence[Results]) -> Iterator[Evidence]:
    for results in every:
        if not results.has("scratch", "transfer"):
            continue
        sized = [(runs[0].record["sizes"]["target_llm"], n, p) for n, p in enumerate(results.pairs())
                 if (runs := results.of(p, "transfer")) and results.of(p, "scratch")]  # fmt: skip
        for _, _, pair in sorted(sized)[-1:]:
            ours = mean([_rise(f) for f in results.of(pair, "transfer")])
            theirs = mean([_rise(f) for f in results.of(pair, "scratch")])
            text = f"{_named(pair)}: the loss rises by {theirs:.3f} from scratch, by {ours:.3f} with transfer"
            yield Evidence(text, theirs > max(0.05, 2 * ours))


def _rise(run: Finished) -> float:
    """The largest rise of the held-out loss over its lowest value so far; infinite if a loss is not finite."""
    lowest, rise = float("inf"), 0.0
    for _, loss in run.losses():
        if loss is None or loss != loss:
            return float("inf")
        lowest = min(lowest, loss)
        rise = max(rise, loss - lowest)
    return rise


@_finding(
    "8",
    "The nearest word of a soft prompt is readable: it names the image's content.",
    "The nearest word is one of the image's own captions at least 1.5 times as often as one of another image's.",
)
def _readable(every: Sequence[Results]) -> Iterator[Evidence]:
    for _, pair, found in _prompts(every):
        own = mean([f.record["prompts"]["own"] for f in found])
        other = mean([f.record["prompts"]["other"] for f in found])
        yield Evidence(f"{_named(pair)}: own {own:.2f}, another's {other:.2f}", own >= 1.5 * other)


def _prompts(every: Sequence[Results]) -> Iterator[tuple[Results, Pair, list[Finished]]]:
    for results in every:
        for pair in results.pairs() if results.has("transfer") else ():
            found = [f for f in results.of(pair, "transfer") if f.record.get("prompts")]
            if found:
                yield results, pair, found


def _faster(every: Sequence[Results], arm: str) -> Iterator[Evidence]:
    for results in every:
        task = next((t for t in results.tasks if is_caption_task(t)), None)
        for pair in results.pairs() if task and results.has("scratch", arm) else ():
            found = speed_ups(results, pair, arm, str(task))
            if found.typical is not None:
                yield Evidence(f"{_named(pair)}, {task}: {found}", found.typical > 1)

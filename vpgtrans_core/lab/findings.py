"""The paper's findings, each judged by a rule: the rule is code, and its text stands in the report. No torch.

A rule looks at all experiments of the laboratory. It gives evidence only where the cells that it compares are
finished; without evidence a finding is *not testable here*. With evidence it is *reproduced* if it holds in more than
half of the comparisons, and otherwise *not reproduced*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vpgtrans_core.lab.evidence import (
    Compare,
    Evidence,
    Neighbours,
    after_epoch,
    at_end,
    captions,
    faster,
    first_captions,
    largest_target,
    looks,
    of_its_own_picture,
    one,
    questions,
    rise,
)
from vpgtrans_core.lab.experiment import Pair
from vpgtrans_core.lab.results import Results, median

Verdict = Literal["reproduced", "not reproduced", "not testable here"]


@dataclass(frozen=True)
class Rule:
    """One finding of the paper and how it is judged.

    Attributes:
        number: as in the report; letters are parts of one finding.
        says: what the paper says.
        rule: when a comparison counts as holding, in words.
        see: the same as code: the comparisons.
    """

    number: str
    says: str
    rule: str
    see: Callable[[Sequence[Results]], Iterable[Evidence]]


@dataclass(frozen=True)
class Finding:
    """One finding of the paper, judged: what its rule saw."""

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


def findings(every: Sequence[Results]) -> list[Finding]:
    """All findings, judged. An experiment whose cells are all another's too adds nothing, and a comparison that several
    experiments make with the same figures counts once."""
    ids = [{cell.id for cell in results.cells} for results in every]
    whole = [results for results, own in zip(every, ids, strict=True) if not any(own < other for other in ids)]
    return [Finding(r.number, r.says, r.rule, tuple(dict.fromkeys(r.see(whole)))) for r in RULES]


def _one_family(pair: Pair, sizes: Mapping[str, Any]) -> object:
    """Sources of one family for one target."""
    return pair.target, sizes["source_family"]


def _across_types(pair: Pair, sizes: Mapping[str, Any]) -> object:
    return "across types" if sizes["source_family"] != sizes["target_family"] else None


def _smaller_llm(sizes: Mapping[str, int]) -> int:
    return min(sizes["source_llm"], sizes["target_llm"])


RULES: tuple[Rule, ...] = (
    Rule(
        "1a",
        "Inheriting the VPG speeds training up.",
        "VPG-inherit's median speed-up over training from scratch, on the first task of captions, is above 1.",
        Compare(faster("inherit"), one("scratch", "from scratch"), lambda a, b: a > b, "speed-up", middle=median),
    ),
    Rule(
        "1b",
        "With a random projector, inheriting damages fine perception: questions fall below training from scratch.",
        "VPG-inherit's final score on questions, the mean over tasks and seeds, is below that of scratch training.",
        Compare(at_end("inherit", questions), at_end("scratch", questions), lambda a, b: a < b, "questions"),
    ),
    Rule(
        "2a",
        "Warming the projector up first prevents the damage.",
        "VPGTrans's final score on questions is at least that of training from scratch.",
        Compare(at_end("transfer", questions), at_end("scratch", questions), lambda a, b: a >= b, "questions"),
    ),
    Rule(
        "2b",
        "The converter's initialisation speeds the warm-up.",
        "After the first epoch of the warm-up at 1x the rate, captions score higher with the converter than without.",
        Compare(after_epoch(1, "warm-up-1x"), after_epoch(1, "warm-up-random-1x"), lambda a, b: a > b, "epoch 1"),
    ),
    Rule(
        "2c",
        "Five times the rate speeds the warm-up.",
        "After the first epoch of the warm-up with the converter, captions score higher at 5x than at 1x the rate.",
        Compare(after_epoch(1, "warm-up-5x"), after_epoch(1, "warm-up-1x"), lambda a, b: a > b, "epoch 1"),
    ),
    Rule(
        "2d",
        "Ten times the rate brings nothing more, and does not crash.",
        "After the first epoch, 10x scores at most a twentieth above 5x, and not below half of it.",
        Compare(
            after_epoch(1, "warm-up-10x"), after_epoch(1, "warm-up-5x"), lambda a, b: 0.5 * b <= a < 1.05 * b, "epoch 1"
        ),
    ),
    Rule(
        "3",
        "Training the projector alone underfits captions.",
        "Only-linear's final score on captions, averaged over tasks and seeds, is below VPGTrans's.",
        Compare(at_end("linear", captions), at_end("transfer", captions), lambda a, b: a < b, "captions"),
    ),
    Rule(
        "4a",
        "Soft prompts have about ten times the norm of word embeddings.",
        "In a model trained by VPGTrans, the mean norm of soft prompts is 5 to 20 times that of the captions' words.",
        Compare(looks("prompt_norm", "soft prompts"), looks("word_norm", "words"), lambda a, b: 5 * b <= a <= 20 * b),
    ),
    Rule(
        "4b",
        "The merged projector without any training gives random output.",
        "By how much captions score higher than the same captions under other pictures, is for the untrained merged "
        "projector less than a tenth of what it is for VPGTrans at its end. (Captions of one world share phrases, so "
        "random ones score, too.)",
        Compare(
            of_its_own_picture("merged"), of_its_own_picture("transfer"), lambda a, b: a < 0.1 * b,
            "captions above those of other pictures",
        ),
    ),
    Rule(
        "5",
        "The smaller the source's LLM, the better its VPG transfers (projector alone).",
        "Of two sources of one family for the same target, neighbours in size, the one with the smaller LLM has the "
        "higher final score on captions by only-linear.",
        Neighbours(
            at_end("linear", first_captions), _one_family, lambda sizes: sizes["source_llm"], lambda a, b: a > b
        ),
    ),
    Rule(
        "6",
        "Across types of LLM, speed-up appears between large LLMs only.",
        "Of two transfers across types, neighbours by the smaller of their LLMs, the smaller has a median speed-up of "
        "at most 1 on the first task of captions, while the larger's is above 1.",
        Neighbours(faster("transfer"), _across_types, _smaller_llm, lambda a, b: a <= 1 < b, median),
    ),
    Rule(
        "6, a remedy",
        "Not in the paper: the start from words (vpgt's default) speeds up transfer across types of small LLMs, too.",
        "In an experiment with the paper's way and the start from words, for a pair across types the latter's median "
        "speed-up on the first task of captions is above 1, and not below the former's.",
        Compare(
            faster("words"), faster("transfer"), lambda a, b: a > 1 and a >= b, "speed-up", pairs=lambda r: r.across(),
            middle=median,
        ),
    ),
    Rule(
        "7",
        "Larger targets train more stably with transfer.",
        "For the largest target of an experiment, the held-out loss of training from scratch rises above its lowest "
        "value so far by more than 0.05 and by more than twice what VPGTrans's does (the mean over seeds), or is not "
        "finite.",
        Compare(
            rise("scratch"), rise("transfer"), lambda a, b: a > max(0.05, 2 * b), "rise of the loss",
            pairs=largest_target,
        ),
    ),
    Rule(
        "8",
        "The nearest word of a soft prompt is readable: it names the image's content.",
        "The nearest word is one of the image's own captions at least 1.5 times as often as one of another image's.",
        Compare(looks("own", "own"), looks("other", "another's"), lambda a, b: a >= 1.5 * b),
    ),
)  # fmt: skip
"""The rules, in the order of the report."""

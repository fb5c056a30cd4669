"""How well the criterion of `vpgt advise` predicts which source turns out best. No torch.

The criterion is the loss before training with the projector initialised from words: the arm ``advice`` measures it, on
the held-out images. The outcome is an arm's final held-out loss; both are means over the seeds.
"""

from __future__ import annotations

import itertools

from vpgtrans_core.lab.blocks import Block, Table, Text
from vpgtrans_core.lab.results import Results, last, mean, spread

OUTCOMES = ("transfer", "words", "linear")


def prediction(results: Results) -> list[Block]:
    """A table of predictions beside outcomes, and how many pairs of sources were put in the right order."""
    if not results.has("advice"):
        return []
    rows, regrets, right, compared = [], list[float](), 0, 0
    for target in dict.fromkeys(pair.target for pair in results.pairs()):
        for outcome in [arm for arm in OUTCOMES if results.has(arm)]:
            known = _known(results, target, outcome)
            ends = [mean(end) for *_, end in known]
            regrets += [ends[0] - min(ends)] if len(known) > 1 else []
            rows += [(last(target), source, outcome, spread(told, 3), spread(end, 3)) for source, told, end in known]
            for first, second in itertools.combinations(ends, 2):  # the advice's order
                compared += 1
                right += first < second
    if not compared:
        return []
    text = (
        f"`vpgt advise` ranks sources by the loss before training. Of {compared} comparisons of two sources for one "
        f"target, that put {right} in the order of their final held-out losses. The source that it ranks first ends "
        f"{mean(regrets):.3f} above the best one on average, and {max(regrets):.3f} at most."
    )
    head = ("target", "source", "arm", "loss before training (advice)", "held-out loss at the end")
    return [Text(text), Table("Which source? The advice and the outcome", head, rows)]


def _known(results: Results, target: str, outcome: str) -> list[tuple[str, list[float], list[float]]]:
    """``(source, the advice's losses, the outcomes)`` of each source that has both, in the order of the advice."""
    found = []
    for pair in results.pairs():
        told = [f.record["first_held_out_loss"] for f in results.of(pair, "advice")]
        ends = [f.losses()[-1][1] for f in results.of(pair, outcome) if f.losses()]
        if pair.target == target and ends and all(value is not None for value in told) and told:
            found.append((last(pair.source), told, ends))
    return sorted(found, key=lambda one: mean(one[1]))

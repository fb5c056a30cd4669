"""How well the criterion of `vpgt advise` predicts which source turns out best. No torch.

The criterion is the loss before training with the projector initialised from words: the arm ``advice`` measures it, on
the held-out images. The outcome is an arm's final held-out loss; both are means over the seeds.
"""

from __future__ import annotations

import itertools

from vpgtrans_core.lab.blocks import Block, Table, Text
from vpgtrans_core.lab.results import Results, mean

OUTCOMES = ("transfer", "words", "linear")


def prediction(results: Results) -> list[Block]:
    """A table of predictions beside outcomes, and how many pairs of sources were put in the right order."""
    if not results.has("advice"):
        return []
    rows, right, compared = [], 0, 0
    for target in dict.fromkeys(pair.target for pair in results.pairs()):
        for outcome in [arm for arm in OUTCOMES if results.has(arm)]:
            known = _known(results, target, outcome)
            rows += [(target, source, outcome, f"{told:.3f}", f"{final:.3f}") for source, told, final in known]
            for (_, told, final), (_, other, end) in itertools.combinations(known, 2):
                compared += 1
                right += (told < other) == (final < end)
    if not compared:
        return []
    text = (
        f"`vpgt advise` ranks sources by the loss before training. Of {compared} comparisons of two sources for one "
        f"target, that put {right} in the order of their final held-out losses."
    )
    head = ("target", "source", "arm", "loss before training (advice)", "held-out loss at the end")
    return [Text(text), Table("Which source? The advice and the outcome", head, rows)]


def _known(results: Results, target: str, outcome: str) -> list[tuple[str, float, float]]:
    """``(source, the advice's loss, the outcome)`` of each source that has both."""
    found = []
    for pair in results.pairs():
        told = [f.record["first_held_out_loss"] for f in results.of(pair, "advice")]
        ends = [f.losses()[-1][1] for f in results.of(pair, outcome) if f.losses()]
        if pair.target == target and ends and all(value is not None for value in told) and told:
            found.append((pair.source.rpartition("/")[2], mean(told), mean(ends)))
    return sorted(found, key=lambda one: one[1])

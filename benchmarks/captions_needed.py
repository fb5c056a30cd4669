"""Captions that a transfer needs to be where training from scratch ends, as a share of what that took.

``python benchmarks/captions_needed.py`` trains from scratch on the miniature for 147 steps of 320 captions, and
transfers with the same pictures, batches and seeds, with the held-out loss after every step of stage 1. Printed is the
first step whose loss is no higher than that of training from scratch at its end, and its captions as a share of those
that training from scratch saw: mean over the seeds, half the range in brackets. ``--json FILE`` keeps the curves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from advice import advising
from miniature import with_spread
from warm_up import Curve, first_step, metrics

TARGETS = ("opt-mini-l", "llama-mini")
"""Another size of the source's LLM (TaS), and another type (TaT)."""


def by_captions(lines: list[dict[str, Any]]) -> Curve:
    """The held-out losses in the lines of ``metrics.jsonl``, by the captions that training has seen."""
    found, captions = Curve(), 0
    for line in lines:
        captions += line.get("captions", 0)
        if "held_out_loss" in line:
            found[captions] = line["held_out_loss"]
    return found


def compare(target: str, seed: int, steps: int, warm: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Both runs of one seed; `share` is None if the transfer's stage 1 does not come as far."""
    scratch, ours = (
        by_captions(metrics(target, seed, settings | own))
        for own in (
            {"method": "scratch", "stage2_steps": steps, "validate_every": steps},
            {"stages": (1,), "stage1_steps": warm, "validate_every": 1},
        )
    )
    seen, end = max(scratch), scratch[max(scratch)]
    reached = first_step(ours, end)
    share = None if reached is None else reached / seen
    return {"target": target, "seed": seed, "scratch": end, "share": share, "steps": steps, "curve": ours}


def table(results: list[dict[str, Any]]) -> str:
    """A line for each target."""
    lines = ["| target | from scratch, at its end | ours before any step | steps to it | captions to it |"]
    lines.append("|---|---|---|---|---|")
    for target in dict.fromkeys(row["target"] for row in results):
        rows = [row for row in results if row["target"] == target]
        losses = (with_spread(values) for values in ([r["scratch"] for r in rows], [r["curve"][0] for r in rows]))
        steps = ", ".join("never" if r["share"] is None else f"{r['share'] * r['steps']:.0f}" for r in rows)
        shares = [row["share"] for row in rows if row["share"] is not None]
        share = f"{sum(shares) / len(shares):.1%}" if len(shares) == len(rows) else "not reached by all"
        lines.append(f"| {target} | {' | '.join(losses)} | {steps} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=147, help="of training from scratch")
    parser.add_argument("--warm-up", type=int, default=21, help="steps of stage 1 within which the loss is looked for")
    parser.add_argument("--limit", type=int, help="pictures; default all 1,500")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for target in given.targets:
            for seed in range(given.seeds):
                settings = {"cache": cache, "limit": given.limit}
                results.append(compare(target, seed, given.steps, given.warm_up, settings))
                print("{target}, seed {seed}: {share} of the captions".format(**results[-1]), flush=True)
                if given.json:
                    given.json.write_text(json.dumps(results, indent=1))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    with advising():
        main()

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniature import with_spread

from vpgtrans_core.run.pipeline import transfer

TARGETS = ("opt-mini-l", "llama-mini")
"""Another size of the source's LLM (TaS), and another type (TaT)."""


@dataclass(frozen=True)
class Look:
    """One measurement of the held-out loss: after how many captions, and in which step of which stage."""

    captions: int
    loss: float
    stage: int
    step: int


def looks(metrics: Path) -> list[Look]:
    """The held-out losses of a run's ``metrics.jsonl``, in order."""
    found, captions = list[Look](), 0
    for line in map(json.loads, metrics.read_text().splitlines()):
        captions += line.get("captions", 0)
        if "held_out_loss" in line:
            found.append(Look(captions, line["held_out_loss"], line["stage"], line["step"]))
    return found


def needed(losses: list[Look], goal: float) -> Look | None:
    """The first look whose loss is at most `goal`; None if there is none."""
    return next((look for look in losses if look.loss <= goal), None)


def one_run(target: str, seed: int, settings: dict[str, Any]) -> list[Look]:
    """Train once on the miniature and return its looks."""
    with tempfile.TemporaryDirectory() as folder:
        out = transfer(
            source="opt-mini-s",
            target=target,
            seed=seed,
            out=folder,
            device="cpu",
            early_stop=False,
            save="vpg",
            **settings,
        ).folder
        return looks(out / "metrics.jsonl")


def compare(target: str, seed: int, steps: int, warm: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Both runs of one seed; `share` is None if the transfer's stage 1 does not come as far."""
    scratch = one_run(target, seed, settings | {"method": "scratch", "stage2_steps": steps, "validate_every": steps})
    ours = one_run(target, seed, settings | {"stages": (1,), "stage1_steps": warm, "validate_every": 1})
    end, reached = scratch[-1], needed(ours, scratch[-1].loss)
    return {
        "target": target,
        "seed": seed,
        "scratch": end.loss,
        "before": ours[0].loss,
        "reached": reached and reached.step,
        "share": reached and reached.captions / end.captions,
        "curve": [(look.captions, look.loss) for look in ours],
    }


def table(results: list[dict[str, Any]]) -> str:
    """A line for each target."""
    lines = ["| target | from scratch, at its end | ours before any step | steps to it | captions to it |"]
    lines.append("|---|---|---|---|---|")
    for target in dict.fromkeys(row["target"] for row in results):
        rows = [row for row in results if row["target"] == target]
        losses = (with_spread([row[key] for row in rows]) for key in ("scratch", "before"))
        steps = ", ".join(str(row["reached"]) for row in rows)
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
                print(
                    "{target}, seed {seed}: step {reached}, {share} of the captions".format(**results[-1]), flush=True
                )
                if given.json:
                    given.json.write_text(json.dumps(results, indent=1))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()

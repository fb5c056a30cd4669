"""How many steps the warm-up takes to where the paper's is after its epoch, and the loss before any step.

``python benchmarks/warm_up.py`` warms the projector up on the miniature with the same pictures, batches and seeds: by
the paper's recipe (the converter by SGD, merged; AdamW at 5x the rate) and by ours, with the held-out loss after every
step. It prints for each target the loss at the start, with a control whose word pairs are shuffled, and the first of
our steps whose loss is no higher than the paper's at its end. Mean over the seeds, half the range in brackets.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from advice import advising
from miniature import with_spread

from vpgtrans_core.run.pipeline import transfer

RECIPES: dict[str, dict[str, Any]] = {
    "the paper's": {"start": "converter", "converter": "sgd", "stage1_optimizer": "adamw", "validate_every": 7},
    "ours": {"validate_every": 1},
    "ours, pairs shuffled": {"shuffle_pairs": True, "stage1_steps": 0},  # its start is all that is asked for
}
SHOWN = (0, 1, 2, 3, 4, 5, 7, 14)
"""Steps whose loss the table shows, besides the last."""
BATCH = 320
"""Captions a step, those of 64 pictures."""
Curve = dict[int, float]


def metrics(target: str, seed: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Train once on the miniature; the lines of ``metrics.jsonl``."""
    with tempfile.TemporaryDirectory() as folder:
        out = transfer(
            source="opt-mini-s",
            target=target,
            seed=seed,
            out=folder,
            device="cpu",
            early_stop=False,
            batch_size=BATCH,
            save="vpg",
            **settings,
        ).folder
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(target: str, seed: int, settings: dict[str, Any]) -> Curve:
    """The held-out loss before the first step and after every so many steps of a warm-up."""
    lines = metrics(target, seed, {"stages": (1,)} | settings)
    return {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}


def compare(target: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Every recipe's curve with one seed, and the step at which ours has reached the paper's end (None: never)."""
    curves = {name: curve(target, seed, settings | recipe) for name, recipe in RECIPES.items()}
    steps = max(curves["the paper's"])
    reached = first_step(curves["ours"], curves["the paper's"][steps])
    return {"target": target, "seed": seed, "curves": curves, "steps": steps, "reached": reached}


def first_step(losses: Curve, goal: float) -> int | None:
    """The first step after which the loss is at most `goal`, or whatever the curve counts; 0 is the start."""
    return next((step for step, loss in losses.items() if loss <= goal), None)


def table(results: list[dict[str, Any]]) -> str:
    """Losses of the recipes by step."""
    last = results[0]["steps"]
    steps = [step for step in SHOWN if step < last] + [last]
    lines = ["| recipe | " + " | ".join(f"step {s}" for s in steps) + " |", "|---|" + "---|" * len(steps)]
    for name in RECIPES:
        curves = [result["curves"][name] for result in results]
        losses = (with_spread([c[step] for c in curves]) if step in curves[0] else "" for step in steps)
        lines.append(f"| {name} | " + " | ".join(losses) + " |")
    return "\n".join(lines)


def verdict(results: list[dict[str, Any]]) -> str:
    """Our steps to the paper's end, of each seed and as a share of the paper's steps."""
    last, reached = results[0]["steps"], [result["reached"] for result in results]
    if None in reached:
        return f"the paper's end is not reached by every seed: {reached}"
    share = sum(reached) / len(reached) / last
    return f"the paper's end, after {last} steps, is reached after {', '.join(map(str, reached))}: {share:.0%} of them"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["opt-mini-l", "llama-mini", "t5-mini"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of the warm-up; default one epoch, as in the paper")
    parser.add_argument("--limit", type=int, help="pictures; default all 1,500")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    everything: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        settings = {"stage1_steps": arguments.steps, "limit": arguments.limit, "cache": cache}
        for target in arguments.targets:
            results = []
            for seed in arguments.seeds:
                results.append(compare(target, seed, settings))
                print(f"{target}, seed {seed}: the paper's end is reached after {results[-1]['reached']}", flush=True)
            print(f"\nopt-mini-s -> {target}\n{table(results)}\n\n{verdict(results)}\n", flush=True)
            everything += results
            if arguments.json:
                arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    with advising():
        main()

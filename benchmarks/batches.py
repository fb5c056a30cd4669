"""What a batch holds: captions of an image together or one a visit, views fresh or from the cache.

``python benchmarks/batches.py`` trains on the miniature with each, for the same number of captions a step and of steps,
and prints the held-out loss, how well pictures with unseen combinations are captioned, and the seconds of training
until the held-out loss is where the worse of the ways ends (of the same seed, augmented or not). Mean over the seeds,
half the range in brackets. Every run begins with an empty cache, so what the first visit of an image costs is in its
time. Cached views repeat only when an image is visited more often than it has views. Quote ratios of the times, and let
nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advice import advising
from miniature import table

from vpgtrans_core.miniature.data import items
from vpgtrans_core.run.pipeline import transfer
from zoo.demo import as_dict, judge

WAYS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one caption a visit": {"captions_per_image": 1},
    "augmented, fresh": {"augment": True, "cache_features": False},
    "augmented, 1 cached view": {"augment": True, "cache_features": True, "views": 1},
    "augmented, 4 cached views": {"augment": True, "cache_features": True, "views": 4},
}
"""The default, and the others: the first two without augmentation (the miniature's recipe), all but one cached."""
COLUMNS = ("warm", "held_out_loss", "exact", "f1", "seconds", "seconds_to_goal")


def one_run(way: str, target: str, seed: int, pictures: int, folder: Path, **settings: Any) -> dict[str, Any]:
    """Train once and measure; `looks` are the held-out losses with the seconds of training before them."""
    result = transfer(
        source="opt-mini-s",
        target=target,
        seed=seed,
        out=str(folder / "run"),
        cache=str(folder / "cache"),
        device="cpu",
        early_stop=False,
        batch_size=320,
        **settings,
        **WAYS[way],
    )
    looks = held_out_losses([json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()])
    stages = list(result.record["stages"].values())
    return {
        **as_dict(judge(result.folder, way, items("held", pictures))),
        "target": target,
        "method": way,
        "seed": seed,
        "warm": stages[0]["held_out_loss"],
        "captions": sum(stage["captions"] for stage in stages),
        "images": sum(stage["images"] for stage in stages),
        "seconds": looks[-1][0],
        "looks": looks,
    }


def held_out_losses(metrics: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Seconds of training so far, waiting for data included, and the held-out loss then."""
    looks, seconds = [], 0.0
    for line in metrics:
        if "held_out_loss" in line:
            looks.append((seconds, line["held_out_loss"]))
        elif "seconds" in line:  # of a step
            seconds += line["seconds"] + line["waited"]
    return looks


def add_time_to_goal(rows: Sequence[dict[str, Any]]) -> None:
    """For runs of one seed: when each had the loss at which the worst of its kind, augmented or not, ended."""
    for row in rows:
        kind = WAYS[row["method"]].get("augment", False)
        goal = max(r["held_out_loss"] for r in rows if WAYS[r["method"]].get("augment", False) == kind)
        row["goal"] = goal
        row["seconds_to_goal"] = next(seconds for seconds, loss in row["looks"] if loss <= goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["llama-mini"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs=2, default=[21, 126], help="of the warm-up and of fine-tuning")
    parser.add_argument("--validate-every", type=int, default=7, help="steps between held-out losses")
    parser.add_argument("--limit", type=int, help="pictures trained on; default all 1,500")
    parser.add_argument("--pictures", type=int, default=200, help="pictures captioned at the end")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = {"stage1_steps": arguments.steps[0], "stage2_steps": arguments.steps[1], "limit": arguments.limit}
    settings |= {"validate_every": arguments.validate_every}
    everything = []
    for target in arguments.targets:
        rows = []
        for seed in arguments.seeds:
            same_seed = []
            for way in arguments.ways:
                with tempfile.TemporaryDirectory() as folder:
                    same_seed.append(one_run(way, target, seed, arguments.pictures, Path(folder), **settings))
                row = same_seed[-1]
                print(
                    f"{target}, {way}, seed {seed}: loss {row['held_out_loss']:.3f}, {row['seconds']:.0f} s", flush=True
                )
            add_time_to_goal(same_seed)
            rows += same_seed
            if arguments.json:
                arguments.json.write_text(json.dumps(everything + rows, indent=1))
        print(f"\nopt-mini-s -> {target}\n{table(rows, COLUMNS)}\n", flush=True)
        everything += rows


if __name__ == "__main__":
    with advising():
        main()

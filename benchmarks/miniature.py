"""Methods side by side on the miniature: same pictures, same number of steps, several seeds.

``python benchmarks/miniature.py --targets llama-mini --seeds 3`` trains every method and prints, for each target, the
held-out loss before training, after the warm-up and at the end, and how well pictures with unseen combinations are
captioned, as mean and spread over the seeds. *sees* is what exchanging the pictures adds to the held-out loss: 0 for a
blind model. ``--json FILE`` keeps all of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advice import advising

from vpgtrans_core.miniature.data import items
from vpgtrans_core.run.pipeline import transfer
from zoo.demo import as_dict, judge

METHODS: dict[str, dict[str, Any]] = {
    "vpgtrans": {},
    "vpgtrans, Muon in stage 2": {"stage2_optimizer": "muon"},
    "words, pairs shuffled": {"shuffle_pairs": True},
    "the paper's way": {"start": "converter", "converter": "sgd"},
    "ridge converter": {"start": "converter"},
    "converter, pairs shuffled": {"start": "converter", "shuffle_pairs": True},
    "warm-up, random start": {"start": "random"},
    "VPG-inherit": {"method": "inherit"},
    "from scratch (TFS)": {"method": "scratch"},
    "only-linear": {"method": "linear"},
}
COLUMNS = ("start", "warm", "held_out_loss", "sees", "exact", "f1", "colour", "noun", "relation")


def one_run(
    method: str,
    source: str,
    target: str,
    seed: int,
    steps: tuple[int, int],
    pictures: int,
    folder: Path,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Train once and measure; `steps` are those of the warm-up and of fine-tuning."""
    settings = dict(METHODS[method])
    stages = {"inherit": {"stage2_steps": sum(steps)}, "scratch": {"stage2_steps": sum(steps)}}
    stages |= {"linear": {"stage1_steps": sum(steps)}}
    count = stages.get(settings.get("method", ""), {"stage1_steps": steps[0], "stage2_steps": steps[1]})
    result = transfer(
        source=source,
        target=target,
        seed=seed,
        out=str(folder),
        device="cpu",
        early_stop=False,
        batch_size=batch_size,
        **settings,
        **count,
    )
    done = result.record["stages"]
    first = next(iter(done.values()))
    measured = as_dict(judge(folder, method, items("held", pictures)))
    sees = list(done.values())[-1]["sight"]["sees"]
    losses = {"start": first["first_held_out_loss"], "warm": first["held_out_loss"]}
    return {**measured, **losses, "sees": sees, "seed": seed}


def table(rows: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """A line for each method: means and, in brackets, half the range over the seeds."""
    lines = [f"{'':28}" + "".join(f"{c:>16}" for c in columns)]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        lines.append(f"{method:28}" + "".join(f"{with_spread([r[c] for r in mine]):>16}" for c in columns))
    return "\n".join(lines)


def with_spread(values: Sequence[float | None], digits: int = 3) -> str:
    """The mean and, of several, half the range in brackets; None stands for what was not measured."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ({(max(known) - min(known)) / 2:.{digits}f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="opt-mini-s", help="an alias, or the folder of a source built anew")
    parser.add_argument("--targets", nargs="+", default=["opt-mini-l", "llama-mini", "t5-mini"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=[84, 504], help="of the warm-up and of fine-tuning")
    parser.add_argument("--batch-size", type=int, help="captions of a step; default the recipe's")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    everything = []
    for target in arguments.targets:
        rows = []
        for seed in range(arguments.seeds):
            for method in arguments.methods:
                with tempfile.TemporaryDirectory() as folder:
                    steps = tuple(arguments.steps)
                    row = one_run(
                        method, arguments.source, target, seed, steps, arguments.pictures, Path(folder) / "run",
                        arguments.batch_size,
                    )  # fmt: skip
                rows.append({"target": target, "method": method, **row})
                print(
                    f"{target}, {method}, seed {seed}: loss {row['held_out_loss']:.3f}, F1 {row['f1']:.3f}", flush=True
                )
        print(f"\n{arguments.source} -> {target}\n{table(rows)}\n", flush=True)
        everything += rows
        if arguments.json:
            arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    with advising():
        main()

"""A transfer between real LLMs in the small real world, with its controls: one table by one command.

    python -m zoo.world.transfers --world build/world/data --source build/world/smollm2 --target gemma-3-270m

From the same source, for the same number of steps: the default start from words, the same from shuffled word pairs, and
a random projector. Printed are the losses on pictures of a style that no training picture has (nats a token), how much
the model sees of them (what a caption costs more with another picture), and how many of its sentences have the right
noun, or any right word; in brackets the same of sentences about other pictures. docs/world.md says how data and source
are made. ``--json FILE`` keeps all of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import load_model
from zoo.world.pictures import CAPTIONS, STYLE, TRAIN
from zoo.world.score import measure

ARMS: dict[str, dict[str, Any]] = {
    "words (the default)": {},
    "words, pairs shuffled": {"shuffle_pairs": True},
    "random projector": {"start": "random"},
}
SETTINGS: dict[str, Any] = {
    "batch_size": 32, "captions_per_image": 1, "augment": False, "workers": 0, "validate_every": 1000,
    "early_stop": False, "stage2_lr": 5e-4, "stage2_min_lr": 1e-4, "stage2_lr_warmup_steps": 2,
    "stage2_lr_warmup_start": 1e-4, "source_loss": False, "save": "vpg", "device": "cpu",
}  # fmt: skip
COLUMNS = ("before training", "after stage 1", "at the end", "sees", "noun", "any word")


def one_run(arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Transfer once; losses, sight and words of the result."""
    out = given.out / f"{arm.split(' ')[0].strip(',')}-{'-'.join(map(str, ARMS[arm]))}-{seed}"
    record = transfer(
        source=given.source,
        target=given.target,
        data=(str(given.world / TRAIN / CAPTIONS),),
        val_data=str(given.world / STYLE / CAPTIONS),
        val_images=given.val_images,
        stage1_steps=given.steps[0],
        stage2_steps=given.steps[1],
        out=str(out),
        seed=seed,
        overwrite=True,
        **SETTINGS,
        **ARMS[arm],
    ).record
    first, last = (record["stages"][number] for number in ("1", "2"))
    row = {
        "arm": arm,
        "seed": seed,
        "before training": first["first_held_out_loss"],
        "after stage 1": first["held_out_loss"],
        "at the end": last["held_out_loss"],
        "sees": last["sight"]["sees"],
    }
    if given.pictures:
        model = load_model(str(out), Settings(device="cpu"), default_registry())
        row["words"] = measure(model, given.world / STYLE, given.pictures, compared=2)
    return row


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """A line of the table: mean and half the range over the seeds."""
    found = [with_spread([row[column] for row in rows]) for column in COLUMNS[:4]]
    for kind in ("noun", "word"):
        told = [row["words"] for row in rows if "words" in row]
        shares = (sum(each[part][kind] for each in told) / max(1, len(told)) for part in ("right", "by chance"))
        found.append("{:.0%} ({:.0%})".format(*shares) if told else "-")
    return found


def with_spread(values: list[float]) -> str:
    """The mean and, of several seeds, half the range in brackets."""
    spread = f" ({(max(values) - min(values)) / 2:.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| start | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for arm in dict.fromkeys(row["arm"] for row in results):
        lines.append(f"| {arm} | " + " | ".join(cells([row for row in results if row["arm"] == arm])) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True, help="the folder of zoo.world.pictures")
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", default="gemma-3-270m")
    parser.add_argument("--out", type=Path, default=Path("build/world/transfers"))
    parser.add_argument(
        "--arms", type=int, nargs="+", default=list(range(len(ARMS))), help="lines of the table, from 0"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, default=[12, 12], help="of stage 1 and stage 2")
    parser.add_argument("--val-images", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=48, help="described and scored; 0 for none")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for arm in (list(ARMS)[number] for number in given.arms):
            results.append(one_run(arm, seed, given))
            print(f"{arm}, seed {seed}: {results[-1]['at the end']:.3f}, sees {results[-1]['sees']:.3f}", flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()

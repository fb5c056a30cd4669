"""Transfers between real LLMs beside every other method and control, over several seeds: one table by one command.

    python benchmarks/real_llms.py drawn                          # opt-mini-s -> SmolLM2-135M, on drawn pictures
    python benchmarks/real_llms.py world --world build/world/data --source build/world/smollm2     # -> Gemma-3-270M

All methods train on the same pictures, with the same batches and for the same number of steps. The drawn pictures are
those of `zoo.pictures`, and the held-out ones have combinations of colour and noun that no training picture shows. The
small real world and a source that sees in it are made as docs/world.md says; its held-out pictures are of a style that
no training picture has.

Printed are the losses (nats a token), how much the model sees (what a held-out caption costs more with another
picture), how many sentences are right, and after what share of the captions that training from scratch saw a method has
the loss at which that ended. What is right: drawn, a sentence that names all colours, or all nouns, and no wrong one
(`zoo.free_words`); in the world, one that says the name's last word, or any right word (`zoo.world.score`). In brackets
the same for the sentences of other pictures. ``--json FILE`` keeps all of it; runs that it holds already are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advice import advising
from captions_needed import by_captions
from kept import Kept
from miniature import with_spread
from warm_up import first_step

from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.miniature.data import Item, items
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings
from vpgtrans_core.sight.exchange import partners
from vpgtrans_core.vlm.captioning import load_model, say
from zoo import pictures as drawn_pictures
from zoo.free_words import right
from zoo.world.pictures import CAPTIONS, STYLE, TRAIN
from zoo.world.score import measure

SCRATCH = "from scratch"
MUON = {"stage2_optimizer": "muon"}
METHODS: dict[str, dict[str, Any]] = {
    "vpgtrans": {},
    "vpgtrans, Muon in stage 2": MUON,
    "words, pairs shuffled": {"shuffle_pairs": True},
    "pairs shuffled, Muon in stage 2": {"shuffle_pairs": True, **MUON},
    "random projector": {"start": "random"},
    "random projector, Muon in stage 2": {"start": "random", **MUON},
    "ridge converter": {"start": "converter"},
    "the paper's way": {"start": "converter", "converter": "sgd", "stage1_optimizer": "adamw"},
    "VPG-inherit": {"method": "inherit"},
    "only-linear": {"method": "linear"},
    SCRATCH: {"method": "scratch"},
    "vpgtrans, 8 steps in all": {"stages": (1,), "stage1_steps": 8, "validate_every": 1},
    "vpgtrans, no step": {"stages": (1,), "stage1_steps": 0},
    "words, pairs shuffled, no step": {"shuffle_pairs": True, "stages": (1,), "stage1_steps": 0},
}
"""The default, also with Muon on the projector in stage 2; controls (one thing wrong each), the paper's warm-up, the
paper's other methods, how far the default comes in a few steps, with a look after each, and what it sees before any."""
SETTINGS: dict[str, Any] = {
    "captions_per_image": 1, "augment": False, "workers": 0, "early_stop": False, "stage2_min_lr": 1e-4,
    "stage2_lr_warmup_steps": 2, "stage2_lr_warmup_start": 1e-4, "source_loss": False, "save": "vpg", "device": "cpu",
}  # fmt: skip
Shares = dict[str, float]


@dataclass(frozen=True)
class Task:
    """Models, pictures, and how what a model says of held-out ones is scored: its shares, and those by chance."""

    source: str
    target: str
    data: str
    val_data: str
    score: Callable[[str, int], tuple[Shares, Shares]]
    columns: tuple[str, str]


def drawn(given: argparse.Namespace) -> Task:
    """The miniature's pictures, which are written into the output folder."""
    folder = given.out / "pictures"
    drawn_pictures.write(folder, given.images)
    data, val_data = str(folder / "train/captions.json"), str(folder / "unseen/captions.json")
    source, target = given.source or "opt-mini-s", given.target or "smollm2-135m"
    return Task(source, target, data, val_data, score_drawn, ("noun", "colour"))


def score_drawn(model: str, count: int) -> tuple[Shares, Shares]:
    """Shares of sentences with all nouns, and all colours, right: of their own pictures and of others."""
    shown = items("held", count)
    greedy = GenerateOptions(num_beams=1, max_new_tokens=20, min_new_tokens=1)
    loaded = load_model(model, Settings(device="cpu"), default_registry())
    said = [answer.text for answer in say(loaded, [item.image for item in shown], options=greedy)]
    others = partners([item.key for item in shown])
    exchanged = [(said[n], shown[other]) for n, other in enumerate(others) if other is not None]
    return told(list(zip(said, shown, strict=True))), told(exchanged)


def told(pairs: list[tuple[str, Item]]) -> Shares:
    found = [right(sentence, item.scene) for sentence, item in pairs]
    return {kind: sum(each[kind] for each in found) / len(found) for kind in ("noun", "colour")}


def world(given: argparse.Namespace) -> Task:
    """The small real world's pictures."""
    if given.world is None or given.source is None:
        raise SystemExit("--world and --source are needed: docs/world.md has the commands that make them")
    data, val_data = str(given.world / TRAIN / CAPTIONS), str(given.world / STYLE / CAPTIONS)

    def score(model: str, count: int) -> tuple[Shares, Shares]:
        found = measure(load_model(model, Settings(device="cpu"), default_registry()), given.world / STYLE, count, 2)
        return found["right"], found["by chance"]

    return Task(given.source, given.target or "gemma-3-270m", data, val_data, score, ("noun", "word"))


def steps_of(method: str, steps: tuple[int, int]) -> dict[str, int]:
    """The stages' lengths; a method of one stage gets the steps of both."""
    one = {"inherit": "stage2_steps", "scratch": "stage2_steps", "linear": "stage1_steps"}
    alone = one.get(METHODS[method].get("method", ""))
    return {alone: sum(steps)} if alone else {"stage1_steps": steps[0], "stage2_steps": steps[1]}


def one_run(task: Task, method: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train once; losses, sight and sentences of the result."""
    folder = given.out / f"{method.replace(' ', '-').replace(',', '')}-{seed}"
    settings = {
        "val_images": given.val_images,
        "validate_every": given.validate_every,
        "batch_size": given.batch,
        "stage2_lr": given.lr,
        "dtype": given.dtype,
        **SETTINGS,
        **steps_of(method, given.steps),
        **METHODS[method],
    }
    names = {"source": task.source, "target": task.target, "data": (task.data,), "val_data": task.val_data}
    result = transfer(**names, **settings, out=str(folder), seed=seed, overwrite=True)
    stages = list(result.record["stages"].values())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    words, chance = task.score(str(folder), given.pictures)
    return {
        "method": method,
        "seed": seed,
        "before training": stages[0]["first_held_out_loss"],
        "after stage 1": stages[0]["held_out_loss"] if len(stages) > 1 else None,
        "end": stages[-1]["held_out_loss"],
        "sees": stages[-1]["sight"]["sees"],
        "curve": list(by_captions([json.loads(line) for line in lines]).items()),
        "words": words,
        "by chance": chance,
    }


def table(rows: list[dict[str, Any]], kinds: tuple[str, str]) -> str:
    """A line for each method: means and, of several seeds, half the range in brackets."""
    columns = ("before training", "after stage 1", "end", "sees")
    lines = [
        "| method | "
        + " | ".join((*columns[:2], "at the end", "sees", *kinds, "captions to the end of scratch"))
        + " |"
    ]
    lines.append("|---" * (len(columns) + 4) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = [with_spread([row[column] for row in mine], 2) for column in columns]
        for kind in kinds:
            shares = (statistics.mean(row[part][kind] for row in mine) for part in ("words", "by chance"))
            cells.append("{:.0%} ({:.0%})".format(*shares))
        lines.append(f"| {method} | {' | '.join(cells)} | {share_of_scratch(mine, rows)} |")
    return "\n".join(lines)


def share_of_scratch(mine: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """After what share of its captions a method has the loss that training from scratch, same seed, ended with."""
    ends = {row["seed"]: row["curve"][-1] for row in rows if row["method"] == SCRATCH}
    mine = [row for row in mine if row["seed"] in ends]
    if not mine:
        return "-"
    reached = [(first_step(dict(row["curve"]), ends[row["seed"]][1]), ends[row["seed"]][0]) for row in mine]
    shares = [captions / seen for captions, seen in reached if captions is not None]
    if not shares:
        return "never"
    never = f", {len(mine) - len(shares)} of {len(mine)} never" if len(shares) < len(mine) else ""
    return f"{statistics.mean(shares):.0%}{never}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures_of", choices=("drawn", "world"))
    parser.add_argument("--source", help="default for drawn pictures: opt-mini-s")
    parser.add_argument("--target", help="default: smollm2-135m for drawn pictures, gemma-3-270m for the world's")
    parser.add_argument("--world", type=Path, help="the folder of zoo.world.pictures")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs=2, default=(30, 30), help="of stage 1 and stage 2")
    parser.add_argument("--images", type=int, help="drawn training pictures; default 1,500")
    parser.add_argument("--batch", type=int, default=16, help="captions of a step, each of another picture")
    parser.add_argument("--lr", type=float, default=2e-3, help="of stage 2; twenty times the paper's, as steps are few")
    parser.add_argument("--dtype", default="auto", help="bfloat16 is faster where the CPU computes in it")
    parser.add_argument("--val-images", type=int, default=32)
    parser.add_argument("--validate-every", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=32, help="described and scored")
    parser.add_argument("--out", type=Path, default=Path("build/real_llms"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    task = {"drawn": drawn, "world": world}[given.pictures_of](given)
    kept = Kept(given.json, "method", given, ("methods",))
    for method, seed in kept.missing(given.methods, given.seeds):
        kept.add(one_run(task, method, seed, given))
    print(f"\n{task.source} -> {task.target}\n\n{table(kept.rows, task.columns)}")


if __name__ == "__main__":
    with advising():
        main()

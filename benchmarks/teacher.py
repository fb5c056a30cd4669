"""Captions by the source against human ones: what a transfer loses without any human caption.

``python benchmarks/teacher.py`` trains `opt-mini-s -> llama-mini` for the same number of steps of 16 pictures on human
captions, on captions that the source sampled, and from scratch; it prints the loss on the *human* captions of 100
held-out pictures, mean and half the range over the seeds. ``--json FILE`` keeps all of it.

The same on the small real world, whose pictures have one human caption each, with real LLMs (docs/world.md makes world
and source; the held-out pictures are of a style that no training picture has):

    python benchmarks/teacher.py --world build/world/data --source build/world/smollm2 --target gemma-3-270m \\
        --pictures 400 --pictures-a-step 16 --steps 30 60
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advice import advising
from kept import Kept
from miniature import with_spread

from vpgtrans_core.miniature.data import items, save
from vpgtrans_core.run.pipeline import transfer
from zoo.world.pictures import CAPTIONS, STYLE, TRAIN

HELD_OUT = 100
Draw = Callable[[int, int], Path]
"""Makes a folder of so many training pictures with so many human captions each, and tells where it is."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        human: human captions of each picture; 0 for pictures alone.
        times: as many pictures as the others have, times this.
        a_picture: captions that a picture brings, so that a step has the same number of pictures.
        settings: further settings of the transfer.
    """

    name: str
    human: int
    a_picture: float
    times: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


MINIATURE = (
    Row("five human captions a picture", 5, 5),
    Row("one human caption", 1, 1),
    Row("five sampled from the source", 0, 4.94, settings={"captions": "source:5"}),
    Row("the same, ten times the pictures", 0, 4.94, 10, {"captions": "source:5"}),
    Row("one greedy caption of the source", 0, 1, settings={"captions": "source:1", "caption_temperature": 0.0}),
    Row("from scratch, five human captions", 5, 5, settings={"method": "scratch"}),
)
WORLD = (
    Row("one human caption", 1, 1),
    Row("three sampled from the source", 0, 1, settings={"captions": "source:3", "captions_per_image": 1}),
    Row("the same, ten times the pictures", 0, 1, 10, {"captions": "source:3", "captions_per_image": 1}),
    Row("one greedy caption of the source", 0, 1, settings={"captions": "source:1", "caption_temperature": 0.0}),
    Row("from scratch, one human caption", 1, 1, settings={"method": "scratch"}),
)
FEW_STEPS = {"stage2_lr": 1e-3, "stage2_min_lr": 1e-4, "stage2_lr_warmup_steps": 2, "stage2_lr_warmup_start": 1e-4}
"""Of the world's runs: the paper's rate of stage 2 is for ten thousands of steps."""
COLUMNS = ("start", "after stage 1", "end", "sees")


def drawn(work: Path) -> tuple[Draw, Path]:
    """Pictures of the miniature: how to make training pictures, and the held-out ones."""

    def draw(pictures: int, human: int) -> Path:
        place = work / f"{pictures}-{human}"
        if not place.exists():
            save([replace(item, captions=item.captions[:human]) for item in items("train", pictures)], place)
            if not human:
                (place / "captions.json").unlink()
        return place

    save(items("val", HELD_OUT), work / "held-out")
    return draw, work / "held-out"


def of_world(world: Path, work: Path) -> tuple[Draw, Path]:
    """The same of the small real world's pictures; they have one human caption each."""
    listed = world / TRAIN / CAPTIONS
    if not listed.is_file():
        raise SystemExit(f"{listed} is missing: docs/world.md has the command that makes it")
    rows = json.loads(listed.read_text(encoding="utf-8"))
    random.Random(0).shuffle(rows)

    def draw(pictures: int, human: int) -> Path:
        place = work / f"{pictures}-{human}"
        if not place.exists():
            place.mkdir()
            chosen = [{**row, "image": Path(row["image"]).name} for row in rows[:pictures]]
            for row, copy in zip(rows, chosen, strict=False):
                shutil.copy(world / TRAIN / row["image"], place / copy["image"])
            if human:
                (place / CAPTIONS).write_text(json.dumps(chosen), encoding="utf-8")
        return place

    return draw, world / STYLE / CAPTIONS


def one_run(row: Row, seed: int, draw: Draw, held_out: Path, cache: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train once; the held-out loss at the start, after the warm-up and at the end, what is seen and was written."""
    scratch = row.settings.get("method") == "scratch"
    warm, fine = given.steps
    length = {"stage2_steps": warm + fine} if scratch else {"stage1_steps": warm, "stage2_steps": fine}
    with tempfile.TemporaryDirectory() as out:
        record = transfer(
            source=given.source,
            target=given.target,
            data=(str(draw(given.pictures * row.times, row.human)),),
            val_data=str(held_out),
            val_images=HELD_OUT,
            seed=seed,
            out=out,
            cache=str(cache),
            device="cpu",
            dtype=given.dtype,
            early_stop=False,
            save="vpg",
            batch_size=round(given.pictures_a_step * row.a_picture),
            **(FEW_STEPS | {"augment": False, "workers": 0, "validate_every": 1000} if given.world else {}),
            **row.settings,
            **length,
        ).record
    stages = list(record["stages"].values())
    images = {round(stage["images"] / stage["steps"]) for stage in stages if stage["steps"]}
    values = {"start": stages[0]["first_held_out_loss"], "end": stages[-1]["held_out_loss"], "images": sorted(images)}
    values |= {"after stage 1": None if scratch else stages[0]["held_out_loss"], "sees": stages[-1]["sight"]["sees"]}
    return {"row": row.name, "seed": seed, **values, "captions": record.get("captions")}


def table(results: list[dict[str, Any]]) -> str:
    """A line for each kind of captions: the mean over the seeds and half their range."""
    lines = ["| captions | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == name]
        lines.append(f"| {name} | " + " | ".join(with_spread([r[column] for r in mine]) for column in COLUMNS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="the folder of zoo.world.pictures; default: the miniature")
    parser.add_argument("--source", default="opt-mini-s")
    parser.add_argument("--target", default="llama-mini")
    parser.add_argument("--rows", type=int, nargs="+", help="lines of the table, from 0; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=1400)
    parser.add_argument("--pictures-a-step", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs=2, default=[84, 504], help="of the warm-up and of fine-tuning")
    parser.add_argument("--dtype", default="auto", help="bfloat16 is faster where the CPU computes in it")
    parser.add_argument("--json", type=Path, help="keeps the results; runs that it holds already are not repeated")
    given = parser.parse_args()
    rows = WORLD if given.world else MINIATURE
    chosen = {row.name: row for row in (rows[number] for number in given.rows or range(len(rows)))}
    kept = Kept(given.json, "row", given, ("rows",))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw, held_out = of_world(given.world, work) if given.world else drawn(work)
        for name, seed in kept.missing(list(chosen), given.seeds):
            kept.add(one_run(chosen[name], seed, draw, held_out, work / "cache", given))
    print(f"\n{given.source} -> {given.target}\n\n{table(kept.rows)}")


if __name__ == "__main__":
    with advising():
        main()

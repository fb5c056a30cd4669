"""Captions by the source against human ones, on the miniature: what a transfer loses without any human caption.

``python benchmarks/teacher.py`` trains `opt-mini-s -> llama-mini` for the same number of steps of 64 pictures on human
captions, on captions that the source sampled, and from scratch; it prints the loss on the *human* captions of 100
held-out pictures, mean and half the range over the seeds. ``--json FILE`` keeps all of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from miniature import with_spread

from vpgtrans_core.miniature.data import items, save
from vpgtrans_core.run.pipeline import transfer

PICTURES_A_STEP = 64
HELD_OUT = 100


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


ROWS = (
    Row("five human captions a picture", 5, 5),
    Row("one human caption", 1, 1),
    Row("five sampled from the source", 0, 4.94, settings={"captions": "source:5"}),
    Row("the same, ten times the pictures", 0, 4.94, 10, {"captions": "source:5"}),
    Row("one greedy caption of the source", 0, 1, settings={"captions": "source:1", "caption_temperature": 0.0}),
    Row("from scratch, five human captions", 5, 5, settings={"method": "scratch"}),
)
COLUMNS = ("start", "after stage 1", "end")


def draw(folder: Path, pictures: int, human: int) -> Path:
    """The first `pictures` training pictures as files, with their first `human` captions."""
    place = folder / f"{pictures}-{human}"
    if not place.exists():
        save([replace(item, captions=item.captions[:human]) for item in items("train", pictures)], place)
        if not human:
            (place / "captions.json").unlink()
    return place


def one_run(row: Row, seed: int, pictures: int, steps: tuple[int, int], work: Path) -> dict[str, Any]:
    """Train once; the held-out loss at the start, after the warm-up and at the end, and what the source wrote."""
    scratch = row.settings.get("method") == "scratch"
    length = {"stage2_steps": sum(steps)} if scratch else {"stage1_steps": steps[0], "stage2_steps": steps[1]}
    with tempfile.TemporaryDirectory() as out:
        record = transfer(
            source="opt-mini-s",
            target="llama-mini",
            data=(str(draw(work, pictures * row.times, row.human)),),
            val_data=str(draw_held_out(work)),
            seed=seed,
            out=out,
            cache=str(work / "cache"),
            device="cpu",
            early_stop=False,
            save="vpg",
            batch_size=round(PICTURES_A_STEP * row.a_picture),
            **row.settings,
            **length,
        ).record
    stages = list(record["stages"].values())
    images = {round(stage["images"] / stage["steps"]) for stage in stages if stage["steps"]}
    values = {"start": stages[0]["first_held_out_loss"], "end": stages[-1]["held_out_loss"], "images": sorted(images)}
    warm = None if scratch else stages[0]["held_out_loss"]
    return {"row": row.name, "seed": seed, **values, "after stage 1": warm, "captions": record.get("captions")}


def draw_held_out(work: Path) -> Path:
    place = work / "held-out"
    if not place.exists():
        save(items("val", HELD_OUT), place)
    return place


def table(results: list[dict[str, Any]]) -> str:
    """A line for each kind of captions: the mean over the seeds and half their range."""
    lines = ["| captions | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == name]
        values = ([r[column] for r in mine] for column in COLUMNS)
        lines.append(f"| {name} | " + " | ".join("-" if None in v else with_spread(v) for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=list(range(len(ROWS))), help="lines of the table, from 0"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1400)
    parser.add_argument("--steps", type=int, nargs=2, default=[21, 126], help="of the warm-up and of fine-tuning")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for seed in range(arguments.seeds):
            for row in (ROWS[number] for number in arguments.rows):
                results.append(one_run(row, seed, arguments.pictures, tuple(arguments.steps), Path(work)))
                print(f"{row.name}, seed {seed}: {results[-1]['end']:.3f}", flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=1))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()

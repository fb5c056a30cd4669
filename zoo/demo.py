"""What a transferred miniature says of pictures it never saw, beside a rival trained for as many steps.

``python -m zoo.demo RUN_FOLDER --out DIR`` trains the rivals (with the run's own data, batch and
number of steps), prints the table, and draws the pictures with what each model says of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.miniature.data import Item, items
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import load_model, say
from zoo.score import Score, score
from zoo.sheet import Voice, draw_sheet

RIVALS = {"scratch": "from scratch (TFS)", "inherit": "VPG-inherit"}
PICTURES = 200
SHOWN = 8
GREEDY = GenerateOptions(num_beams=1, min_new_tokens=1)


@dataclass(frozen=True)
class Result:
    """One model's captions of the held-out pictures, their score, and the run's last held-out loss."""

    name: str
    said: list[str]
    score: Score
    loss: float
    steps: int


def judge(folder: Path, name: str, pictures: Sequence[Item]) -> Result:
    """Caption pictures with a finished run's model and score them."""
    model = load_model(str(folder), Settings(device="cpu"), default_registry())
    said = [s.text for s in say(model, [p.image for p in pictures], options=GREEDY)]
    stages = json.loads((folder / "run.json").read_text())["stages"]
    last = list(stages.values())[-1]
    steps = sum(stage["steps"] for stage in stages.values())
    return Result(name, said, score(said, [p.scene for p in pictures]), last["held_out_loss"], steps)


def rival(run: Path, method: str, out: Path) -> Path:
    """Train a rival with the settings of `run` and, in its one stage, as many steps as both stages of `run` took."""
    record = json.loads((run / "run.json").read_text())
    steps = sum(stage["steps"] for stage in record["stages"].values())
    kept = ("data", "batch_size", "seed", "val_images", "stage2_lr", "stage2_min_lr")
    names = (*kept, "stage2_lr_warmup_steps", "stage2_lr_warmup_start")
    values = {key: record["settings"][key] for key in names}
    source, target = record["settings"]["source"], record["settings"]["target"]
    values |= {"source": source, "target": target, "method": method, "stage2_steps": steps, "out": str(out)}
    transfer(**values, device="cpu", overwrite=True)
    return out


def table(results: Sequence[Result]) -> str:
    """The results as lines of text."""
    head = f"{'':24}{'steps':>6}{'held-out loss':>15}{'exact':>8}{'F1':>7}" + "".join(
        f"{kind:>10}" for kind in results[0].score.parts
    )
    rows = [
        f"{r.name:24}{r.steps:>6}{r.loss:>15.3f}{r.score.exact:>8.1%}{r.score.f1:>7.3f}"
        + "".join(f"{value:>10.1%}" for value in r.score.parts.values())
        for r in results
    ]
    return "\n".join([head, *rows])


def as_dict(result: Result) -> dict[str, Any]:
    """A result as plain numbers."""
    s = result.score
    numbers = {"steps": result.steps, "held_out_loss": result.loss, "exact": s.exact, "f1": s.f1}
    return {"name": result.name, **numbers, **s.parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished miniature transfer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the rivals, table and picture")
    parser.add_argument("--rivals", nargs="*", default=["scratch"], choices=list(RIVALS))
    parser.add_argument("--pictures", type=int, default=PICTURES)
    arguments = parser.parse_args()
    pictures = items("held", arguments.pictures)
    results = [judge(arguments.run, "transferred", pictures)]
    for method in arguments.rivals:
        print(f"training {RIVALS[method]} for as many steps", flush=True)
        folder = rival(arguments.run, method, arguments.out / method)
        results.append(judge(folder, RIVALS[method], pictures))
    print(f"\n{len(pictures)} pictures with combinations that no training picture shows:\n\n{table(results)}\n")
    (arguments.out / "demo.json").write_text(json.dumps([as_dict(r) for r in results], indent=1))
    voices = [Voice(f"{result.name}, {result.steps} steps", result.said) for result in results]
    draw_sheet(pictures[:SHOWN], voices, arguments.out / "demo.png")
    print(f"the first {SHOWN} of them, wrong words marked: {arguments.out / 'demo.png'}")


if __name__ == "__main__":
    main()

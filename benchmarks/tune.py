"""Instruction tuning on the miniature: questions before and after, and the control tuned on shuffled answers.

``python benchmarks/tune.py --seeds 3`` transfers opt-mini-s to a target, tunes the result with each seed on
conversations about the same pictures, and prints, as means and half the range over the seeds, the share of right
answers to plain questions, to follow-ups that need the turn before ("it"), and to the same follow-ups without that
turn; and how well captions of held-out combinations are told. ``--json FILE`` keeps all of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from advice import advising

from benchmarks.miniature import with_spread
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.data.images import pixels
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.miniature.data import Item, items
from vpgtrans_core.miniature.instructions import Exchange, dialogues, save
from vpgtrans_core.miniature.listing import IMAGES
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer, tune
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import ChatTemplate, chat_text, choose_template
from vpgtrans_core.vlm.captioning import load_model
from vpgtrans_core.vlm.model import VLModel
from zoo.demo import as_dict, judge

COLUMNS = ("questions", "follow-ups", "without the turn before", "exact", "f1")
SHORT = GenerateOptions(num_beams=1, max_new_tokens=6, min_new_tokens=1)
BATCH = 50


def conversation(talk: Sequence[Exchange], first: int, last: int) -> Conversation:
    """The question number `last` with the turns from number `first` on before it, as they should have been answered."""
    turns = []
    for number in range(first, last + 1):
        image = (ImageMark(),) if number == first else ()
        turns.append(Turn("user", (*image, talk[number].question)))
        turns += [Turn("assistant", (talk[number].answer,))] if number < last else []
    return Conversation(tuple(turns))


def right(model: VLModel, template: ChatTemplate, pictures: Sequence[Item]) -> dict[str, float]:
    """Shares of right answers: to plain questions, to follow-ups, and to follow-ups without the turn before."""
    asked: dict[str, list[tuple[Item, Conversation, str]]] = {name: [] for name in COLUMNS[:3]}
    for item, talk in zip(pictures, dialogues(pictures, seed=1), strict=True):
        for number, exchange in enumerate(talk):
            kind = "follow-ups" if exchange.follows else "questions"
            asked[kind].append((item, conversation(talk, 0, number), exchange.answer))
            if exchange.follows:
                asked[COLUMNS[2]].append((item, conversation(talk, number, number), exchange.answer))
    return {name: _share(model, template, cases) for name, cases in asked.items()}


def _share(model: VLModel, template: ChatTemplate, cases: list[tuple[Item, Conversation, str]]) -> float:
    good = 0
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        seen = torch.stack([pixels(item.image, model.vpg.preprocessing) for item, _, _ in part])
        prompts = [chat_text(model.llm.text, template, asked) for _, asked, _ in part]
        answers = model.generate(seen, "pixels", prompts, SHORT, [1] * len(part))
        good += sum(answer == wanted for answer, (_, _, wanted) in zip(answers, part, strict=True))
    return good / max(1, len(cases))


def measure(folder: Path, method: str, pictures: int) -> dict[str, Any]:
    """Answers about pictures that no training showed, and captions of held-out combinations."""
    model = load_model(str(folder), Settings(device="cpu"), default_registry())
    template = choose_template("auto", model.llm.tokenizer, folder)
    answered = right(model, template, items("val", pictures))
    return {**as_dict(judge(folder, method, items("held", pictures))), **answered, "method": method}


def tuned(model: Path, seed: int, options: dict[str, Any], pictures: int, folder: Path) -> list[dict[str, Any]]:
    """The model tuned on conversations, and the control."""
    seen, rows = items("train", IMAGES), []
    for shuffled, name in ((False, "tuned"), (True, "tuned on shuffled answers")):
        data = save(seen, folder / f"talk-{shuffled}", shuffled=shuffled)
        out = folder / f"model-{shuffled}"
        tune(str(model), data=(str(data),), seed=seed, out=str(out), device="cpu", overwrite=True, **options)
        rows.append({**measure(out, name, pictures), "seed": seed})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each model: means and, in brackets, half the range over the seeds."""
    lines = [f"{'':28}" + "".join(f"{c:>26}" for c in COLUMNS)]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        lines.append(f"{method:28}" + "".join(f"{with_spread([r[c] for r in mine]):>26}" for c in COLUMNS))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="llama-mini")
    parser.add_argument("--model", type=Path, help="the folder of a transfer to the target, instead of a new one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=240)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    options = {"steps": given.steps, "lr": given.lr, "min_lr": given.lr / 10, "batch_size": given.batch_size}
    options |= {"lr_warmup_steps": 5, "val_images": 100, "workers": 0, "augment": False}
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or Path(folder) / "before"
        if given.model is None:
            transfer(source="opt-mini-s", target=given.target, out=str(model), device="cpu")
        rows = [measure(model, "before", given.pictures)]
        for seed in range(given.seeds):
            rows += tuned(model, seed, options, given.pictures, Path(folder))
            print(f"\nopt-mini-s -> {given.target}, {seed + 1} seeds\n{table(rows)}\n", flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with advising():
        main()

"""What is saved where the target is a fine-tune of the source's LLM: the projector is kept, the warm-up left out.

``python benchmarks/same_base.py`` fine-tunes the miniature's OPT-s on the captions of other pictures, and transfers the
miniature's source to it in two ways with the same data and seed: with the start from words and the whole warm-up
(``--no-same-base``), and with the source's projector as it is. It prints the held-out loss before any step, after the
warm-up and at the end, and how many steps the warm-up took.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from advice import advising
from transformers import AutoModelForCausalLM, AutoTokenizer

from vpgtrans_core.miniature.data import items, save_training
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings

WAYS: dict[str, dict[str, Any]] = {"from words": {"same_base": False}, "kept": {"same_base": True}}
BATCH = 32


def fine_tune(folder: Path, steps: int, rate: float) -> Path:
    """Write OPT-s after `steps` steps of AdamW at this rate on captions of pictures that no run trains on."""
    source = resolve_target("opt-mini-s", default_registry(), Settings()).folder
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
        AutoTokenizer.from_pretrained(source),
    )
    texts = [caption for item in items("train", 300, seed=1) for caption in item.captions]
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=rate), random.Random(0)
    model.train()
    for _ in range(steps):
        batch = tokenizer(rng.sample(texts, BATCH), return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(target: Path, out: Path, seed: int, settings: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """One transfer: its start, the losses and the steps of both stages."""
    record = transfer(
        source="opt-mini-s", target=str(target), out=str(out), seed=seed, device="cpu", save="vpg", source_loss=True,
        **settings, **way,
    ).record  # fmt: skip
    first, second = (record["stages"][number] for number in ("1", "2"))
    return {
        "start": record["start"],
        "steps": [first["steps"], second["steps"]],
        "losses": [first["first_held_out_loss"], first["held_out_loss"], second["held_out_loss"]],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    header = "| start | loss at the start | steps of the warm-up | loss after it | loss at the end |"
    lines = [header, "|---" * 5 + "|"]
    for name, result in results.items():
        begun, warm, end = (f"{loss:.3f}" for loss in result["losses"])
        lines.append(f"| {name} | {begun} | {result['steps'][0]} | {warm} | {end} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning-steps", type=int, default=60, help="steps of the fine-tuning")
    parser.add_argument("--tuning-rate", type=float, default=1e-4)
    parser.add_argument("--limit", type=int, help="pictures; default all 1,500")
    parser.add_argument("--stage2-steps", type=int, help="default as in the miniature's recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        target = fine_tune(Path(home) / "tuned", arguments.tuning_steps, arguments.tuning_rate)
        data = Path(home) / "data"
        save_training(arguments.limit or 1500, data)
        settings = {
            "data": [str(data / "captions.json")], "val_images": 100, "batch_size": 320, "workers": 0, "augment": False,
            "stage1_epochs": 1.0, "stage2_steps": arguments.stage2_steps, "stage2_epochs": 2.0, "stage2_lr": 3e-3,
            "stage2_min_lr": 1e-4, "stage2_lr_warmup_steps": 5, "cache": str(Path(home) / "cache"),
        }  # fmt: skip
        results = {
            name: measure(target, Path(home) / f"out{number}", arguments.seed, settings, way)
            for number, (name, way) in enumerate(WAYS.items())
        }
    distance = results["kept"]["start"].get("same_base")
    print(f"embeddings moved by {distance:.2%}" if distance is not None else "not recognised as a fine-tune")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    with advising():
        main()

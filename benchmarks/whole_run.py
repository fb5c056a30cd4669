"""Whole transfers at a real model's size with random weights: do runs keep the speed of their steps?

    python benchmarks/whole_run.py --shape opt-2.7b                    # a GPU; 10 GB of disk
    python benchmarks/whole_run.py --shape tiny-opt --pictures 40 --batch-size 40 --steps 5 5

Pictures of COCO's size with five captions each, a source and a target LLM are written into a temporary folder. The same
transfer runs twice; the second finds the first one's cache. Shown are captions a second and the share of the time that
training waited for data, over the steps after the first `SKIPPED` of each stage.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import CAPTIONS_AN_IMAGE, SHAPES, word_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
)

import vpgtrans_core

SKIPPED = 3
"""Steps of a stage that are not looked at: memory is found, kernels are chosen."""
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "nrst"]
SOURCE_LLM = {
    "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
"""The source's LLM gives its words alone."""


@dataclass(frozen=True)
class Rate:
    """The speed of one stage of one run."""

    run: str
    stage: int
    captions_per_second: float
    waiting: float
    first_loss: float
    last_loss: float


def save_picture(folder: Path, number: int) -> None:
    """A JPEG of 640 x 480 without meaning, but with as much to decode as a photograph."""
    coarse = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype="uint8")
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=88)


def save_data(folder: Path, pictures: int) -> Path:
    """Pictures and COCO captions of 8 to 12 words; returns the json."""
    images = folder / "images"
    images.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(save_picture, images), range(pictures), chunksize=16))
    rng = random.Random(0)
    annotations = [
        {"image_id": n, "id": CAPTIONS_AN_IMAGE * n + k, "caption": " ".join(rng.choices(WORDS, k=rng.randint(8, 12)))}
        for n in range(pictures)
        for k in range(CAPTIONS_AN_IMAGE)
    ]
    path = folder / "captions.json"
    listed = [{"id": n, "file_name": f"{n}.jpg"} for n in range(pictures)]
    path.write_text(json.dumps({"images": listed, "annotations": annotations}))
    return path


def save_models(folder: Path, shape: str, device: torch.device) -> None:
    """``source`` (the shape's VPG around a tiny LLM) and ``target`` (the shape's LLM)."""
    kind, sizes, vit, qformer = SHAPES[shape]
    words = word_tokenizer(WORDS)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    text = AutoConfig.for_model("opt", **SOURCE_LLM, **special, vocab_size=len(words) + 4)
    config = Blip2Config(
        vision_config={"image_size": 224, "patch_size": 14, **vit},
        qformer_config={**qformer, "encoder_hidden_size": vit["hidden_size"]},
        text_config=text.to_dict(),
        num_query_tokens=32,
    )
    config.image_token_index = text.vocab_size - 1
    target = AutoConfig.for_model(kind, **sizes, **special)
    auto = AutoModelForSeq2SeqLM if target.is_encoder_decoder else AutoModelForCausalLM
    with torch.device(device):
        Blip2ForConditionalGeneration(config).to(dtype).save_pretrained(folder / "source")
        auto.from_config(target, dtype=dtype).save_pretrained(folder / "target")
    for name in ("source", "target"):
        words.save_pretrained(folder / name)


def rates(name: str, run: Path) -> list[Rate]:
    """The speed of each stage, from what the run wrote down."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = []
    for stage in (1, 2):
        steps = [line for line in lines if line["stage"] == stage and "loss" in line][SKIPPED:]
        waited = sum(step["waited"] for step in steps)
        seconds = waited + sum(step["seconds"] for step in steps)
        captions = sum(step["captions"] for step in steps)
        found.append(Rate(name, stage, captions / seconds, waited / seconds, steps[0]["loss"], steps[-1]["loss"]))
    return found


def main(arguments: list[str] | None = None) -> list[Rate]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="opt-2.7b", help=", ".join(SHAPES))
    parser.add_argument("--pictures", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=320, help="captions a step")
    parser.add_argument("--steps", type=int, nargs=2, default=(24, 12), help="of stage 1 and of stage 2")
    parser.add_argument("--workers", type=int, help="that read pictures; default by the cores")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    if min(options.steps) <= SKIPPED:
        parser.error(f"--steps: more than {SKIPPED} of each stage")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: list[Rate] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = save_data(folder / "data", options.pictures)
        save_models(folder, options.shape, device)
        for name in ("first run", "second run"):
            began = time.perf_counter()
            vpgtrans_core.transfer(
                source=str(folder / "source"), target=str(folder / "target"), data=(str(data),), save="vpg",
                out=str(folder / name), cache=str(folder / "cache"), cache_features=True, batch_size=options.batch_size,
                stage1_steps=options.steps[0], stage2_steps=options.steps[1], val_images=64, validate_every=10**6,
                augment=False, early_stop=False, workers=options.workers,
            )  # fmt: skip
            print(f"{name}: {time.perf_counter() - began:.0f} s in all")
            found += rates(name, folder / name)
    print("| run | stage | captions/s | waiting for data | loss |\n|---|---|---|---|---|")
    for r in found:
        print(
            f"| {r.run} | {r.stage} | {r.captions_per_second:.3g} | {100 * r.waiting:.1f} % | "
            f"{r.first_loss:.2f} to {r.last_loss:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in found], indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()

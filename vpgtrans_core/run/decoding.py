"""How the finished model's captions are generated: by the paper's beam search, or greedily where beams loop.

A small language model that is sure of little says the same again and again under beam search ("in the shape of a small
fish in the shape of a small fish") where its greedy captions do not. The choice goes into the folder's generation
config, which transformers and ``vpgt caption`` follow.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.files import read_json, write_json
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.run.self_check import IMAGES
from vpgtrans_core.sight.repetition import repeats
from vpgtrans_core.vlm.captioning import GENERATION

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.vlm.model import VLModel

BEAMS = GenerateOptions()
GREEDY = GenerateOptions(num_beams=1, min_new_tokens=1)


def choose_decoding(model: VLModel, feed: Feed) -> dict[str, Any]:
    """Caption a few images in both ways: beams, unless more of their captions loop than of the greedy ones.

    Returns:
        for run.json: ``chosen`` (``beams`` or ``greedy``), its ``options``, and ``loops``: how many captions of each
        way loop, of ``images``.
    """
    counts, images = {"beams": 0, "greedy": 0}, 0
    for batch, keys, _ in feed.examples(IMAGES):
        visual = batch.visual.to(model.device)
        images += len(keys)
        for name, options in (("beams", BEAMS), ("greedy", GREEDY)):
            texts = model.generate(visual, batch.kind, "", options, batch.images)
            counts[name] += sum(map(repeats, texts))
    chosen = "greedy" if counts["beams"] > counts["greedy"] else "beams"
    options = GREEDY if chosen == "greedy" else BEAMS
    return {"chosen": chosen, "options": asdict(options), "loops": counts, "images": images}


def told(decoding: dict[str, Any]) -> str | None:
    """What the user should know of it; None if all is as usual."""
    counts, images = decoding["loops"], decoding["images"]
    if decoding["chosen"] == "greedy":
        return (
            f"beam search loops on {counts['beams']} of {images} images, greedy decoding on {counts['greedy']}: the "
            "model's generation config says greedy"
        )
    if counts["beams"]:
        return f"{counts['beams']} of {images} captions say the same several times in a row"
    return None


def write_decoding(folder: Path, decoding: dict[str, Any]) -> None:
    """Add the options to the generation config of a model folder; make one where there is none."""
    path = folder / GENERATION
    before = read_json(path) if path.is_file() else {}
    options = {name: value for name, value in decoding["options"].items() if _applies(name, decoding["options"])}
    write_json(path, {**before, **options})


def _applies(name: str, options: dict[str, Any]) -> bool:
    """Transformers warns of a length penalty where there are no beams."""
    return name != "length_penalty" or options["num_beams"] > 1

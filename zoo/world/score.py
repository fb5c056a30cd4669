"""What a model sees of the small real world: ``python -m zoo.world.score --world DIR MODEL ...``.

On each part that no training picture belongs to (another style, other concepts, both):

- *name*, *noun*, *word*: the share of sentences that say the whole name, its last word, or any word of the name or of
  Unicode's keywords; in brackets the same for the sentence of another picture, which is chance.
- *sees*: how many nats a token the captions cost more with another picture.
- *found*: how often a caption costs least with its own picture, of as many pictures as are compared.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.images import pixels
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.sight.exchange import partners
from vpgtrans_core.vlm.captioning import load_model, open_image, say
from vpgtrans_core.vlm.model import VLModel
from zoo.world.pictures import BOTH, CAPTIONS, CONCEPTS, STYLE

PARTS = (STYLE, CONCEPTS, BOTH)
GREEDY = GenerateOptions(num_beams=1, max_new_tokens=12, min_new_tokens=1)
"""Small LLMs loop under beam search."""
MAX_TOKENS = 32
_SMALL = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "s", "the", "this", "to", "with")
)
Row = dict[str, Any]


def spoken(text: str) -> frozenset[str]:
    """The words of a text that name something, in the singular."""
    return frozenset(_singular(word) for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _SMALL)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def right(sentence: str, row: Row) -> dict[str, bool]:
    """Whether a sentence says a picture's whole name, its last word, and any word of name or keywords."""
    said, name = spoken(sentence), row["caption"][0]
    last = [word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in _SMALL][-1:]
    any_word = spoken(" ".join([name, *row["keywords"]]))
    return {
        "name": bool(spoken(name)) and spoken(name) <= said,
        "noun": bool(last) and _singular(last[0]) in said,
        "word": bool(any_word & said),
    }


def shares(sentences: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """The share of sentences that are right on each of these."""
    told = [right(sentence, row) for sentence, row in zip(sentences, rows, strict=True)]
    return {kind: sum(each[kind] for each in told) / len(told) for kind in ("name", "noun", "word")}


def by_chance(sentences: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """The same for the sentences of other pictures, of other concepts."""
    pairs = [
        (sentences[n], rows[other])
        for n, other in enumerate(partners([r["concept"] for r in rows]))
        if other is not None
    ]
    return shares([said for said, _ in pairs], [row for _, row in pairs])


def costs(model: VLModel, shown: torch.Tensor, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The nats of each caption with each picture ``[captions, pictures]``, and each caption's labels."""
    rng = random.Random(0)
    texts = [model.llm.text.encode(Caption(clean(caption)), MAX_TOKENS, rng) for caption in captions]
    rows = [model.llm.layout([[text]], shown.shape[1]) for text in texts]
    nats = [[float(model.llm.loss(prompts[None], row)) for prompts in shown] for row in rows]
    return torch.tensor(nats), torch.tensor([row.labels for row in rows])


def sight(nats: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Losses a token with the right and with all other pictures, and how often the right one costs least."""
    count, own = len(nats), nats.diagonal().sum()
    others = (nats.sum() - own) / (count - 1)
    found = (nats.argmin(1) == torch.arange(count)).float().mean()
    per = float(labels.sum())
    return {"loss": float(own) / per, "sees": float(others - own) / per, "found": float(found)}


@torch.no_grad()
def measure(model: VLModel, part: Path, pictures: int, compared: int, seed: int = 0) -> dict[str, Any]:
    """All figures on a sample of a part, and what was said."""
    rows = json.loads((part / CAPTIONS).read_text(encoding="utf-8"))
    rows = [row for row in rows if row["style"] != "stamps"]
    random.Random(seed).shuffle(rows)
    by_concept = list({row["concept"]: row for row in rows}.values())[:pictures]
    files = [part / row["image"] for row in by_concept]
    said = [answer.text for answer in say(model, files, options=GREEDY)]
    some = by_concept[:compared]
    images = [open_image(file, 0)[1] for file in files[:compared]]
    shown = model.soft_prompts(torch.stack([pixels(image, model.vpg.preprocessing) for image in images]), "pixels")
    assert isinstance(shown, torch.Tensor)
    seen = sight(*costs(model, shown, [row["caption"][0] for row in some]))
    examples = [
        {"image": r["image"], "name": r["caption"][0], "said": s} for r, s in zip(by_concept, said, strict=True)
    ]
    return {
        "pictures": len(said),
        "right": shares(said, by_concept),
        "by chance": by_chance(said, by_concept),
        "compared": len(some),
        **seen,
        "said": examples,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """A line for each model and part."""
    lines = ["| model | pictures | name | noun | word | loss | sees | found |", "|---|" + "---|" * 7]
    for name, parts in results.items():
        for part, found in parts.items():
            words = [f"{found['right'][k]:.0%} ({found['by chance'][k]:.0%})" for k in ("name", "noun", "word")]
            tail = f"{found['loss']:.2f} | {found['sees']:+.2f} | {found['found']:.0%} of {found['compared']}"
            lines.append(f"| {name} | {part} | {' | '.join(words)} | {tail} |")
    return "\n".join(lines)


def score(
    models: Sequence[str],
    world: Path,
    pictures: int,
    compared: int,
    parts: Sequence[str] = PARTS,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The figures of models, by model and part."""
    results: dict[str, dict[str, Any]] = {}
    for name in models:
        model = load_model(name, Settings(device="cpu"), default_registry())
        results[name] = {part: measure(model, world / part, pictures, compared) for part in parts}
        for part, found in results[name].items():
            log(f"{name}, {part}: " + "; ".join(f"{e['name']}: {e['said']!r}" for e in found["said"][:6]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--world", type=Path, required=True, help="the folder of zoo.world.pictures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pictures", type=int, default=96, help="described, of each part")
    parser.add_argument("--compared", type=int, default=16, help="compared by the loss, of each part")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    try:
        results = score(given.models, given.world, given.pictures, given.compared, given.parts)
    except VpgtError as error:
        raise SystemExit(str(error)) from error
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()

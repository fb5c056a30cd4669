"""Where does an LLM want its BOS: before the image, after it, or nowhere?

    python benchmarks/bos_order.py smollm2-135m FILE.gguf

The loss of a caption is measured after soft prompts that are the embeddings of its own words, so an LLM that reads them
well loses little. Nats a token, over the caption's own tokens: BOS and end are left out, as labels in all orders alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch

from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.assemble import load_llm

CAPTIONS = (
    "a brown dog lies on a wooden floor next to a ball",
    "two people ride bicycles along the beach at sunset",
    "a red bus is parked in front of an old building",
    "a cat looks out of the window at the snow",
    "a plate with rice, beans and grilled chicken",
    "a man in a blue shirt plays the guitar on a stage",
    "three sailing boats on a calm lake below the mountains",
    "a young woman holds an umbrella in the rain",
    "a yellow flower grows between grey stones",
    "children play football in a park on a sunny day",
    "a train crosses a high bridge over a river",
    "a bowl of green apples stands on the kitchen table",
)
ORDERS = ("[image] text", "[bos] [image] text", "[image] [bos] text", "text", "[bos] text")


def losses(llm: LLM) -> dict[str, float]:
    """Nats a token for each order; those with BOS only where the tokenizer has one."""
    bos = llm.tokenizer.bos_token_id
    orders = [order for order in ORDERS if bos is not None or "bos" not in order]
    return {order: _mean(llm, order, bos) for order in orders}


@torch.no_grad()
def _mean(llm: LLM, order: str, bos: int | None) -> float:
    total, count = 0.0, 0
    for caption in CAPTIONS:
        said = tuple(llm.tokenizer(caption, add_special_tokens=False).input_ids)
        words = torch.tensor(llm.tokenizer(f" {caption}", add_special_tokens=False).input_ids)
        pieces = [*_read(order, bos), Tokens(said, labelled=True)]
        if len(pieces) == 1:  # nothing predicts the first token
            pieces = [Tokens(said[:1]), Tokens(said[1:], labelled=True)]
        text = Text(tuple(pieces))
        soft = llm.embed(words)[None] if "image" in order else llm.embed(words)[None, :0]
        rows = llm.layout([[text]], soft.shape[1]).to(soft.device)
        total, count = total + float(llm.loss(soft, rows)), count + text.labels
    return total / count


def _read(order: str, bos: int | None) -> Iterator[Tokens | ImagePlace]:
    """What stands before the caption."""
    for part in order.split()[:-1]:
        if part == "[image]":
            yield ImagePlace()
        elif part == "[bos]" and bos is not None:
            yield Tokens((bos,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="aliases, hub ids, folders or GGUF files")
    parser.add_argument("--json", action="store_true", help="one object, by model")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.models:
        settings = Settings(device="cpu")
        target = resolve_target(name, default_registry(), settings)
        found[name] = losses(load_llm(target, choose_machine(settings, target.family.half), settings))
    if arguments.json:
        print(json.dumps(found))
        return
    print("| order |", " | ".join(found), "|")
    print("|---|" + "---|" * len(found))
    for order in ORDERS:
        print(f"| {order} |", " | ".join(f"{f[order]:.2f}" if order in f else "" for f in found.values()), "|")


if __name__ == "__main__":
    main()

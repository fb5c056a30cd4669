"""A first projector, almost without the LLM: ``python -m zoo.world.first_projector --vpg DIR --llm NAME --data FILE``.

A VPG that was pre-trained without an LLM has no projector, and on a real vocabulary a random one takes long to say
anything. The captions tell what soft prompts should say: here each soft prompt of a picture is fitted to the mean of
its caption's word embeddings in the LLM's table, by ridge regression on the VPG's outputs. What is fitted lies nearer
to the mean of all than words do, and a small LLM hardly hears single words: so the soft prompts' distance from their
mean is scaled by the factor at which the captions of a few pictures cost least. The result is the VPG's folder with
this projector, and the LLM by reference: a source whose training goes on with ``vpgt transfer`` to the same LLM.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.images import normalize, open_image, pixels
from vpgtrans_core.data.sample import Sample
from vpgtrans_core.errors import VpgtError
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.start.words import choose_spread
from vpgtrans_core.vlm.assemble import load_llm, load_vpg, projector_module
from vpgtrans_core.vpg.adapter import VPG

BATCH = 32
JUDGED, MAX_TOKENS = 24, 32
"""Pictures whose captions choose the spread, and the tokens at most of each."""
RIDGE = 1e-2
"""Strength of the regression, relative to the mean variance of a direction of the VPG's output."""


@torch.no_grad()
def outputs_of(vpg: VPG, samples: list[Sample]) -> Tensor:
    """The VPG's outputs ``[N, Q, D]``."""
    parts = []
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        shown = torch.stack([pixels(open_image(sample.image), vpg.preprocessing) for sample in part])
        parts.append(vpg(normalize(shown, vpg.preprocessing)))
    return torch.cat(parts)


@torch.no_grad()
def said_by(llm: LLM, samples: list[Sample]) -> Tensor:
    """The mean embedding ``[N, D_llm]`` of the words of each picture's first caption."""
    texts = [" " + sample.captions[0].text for sample in samples]
    ids = [llm.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    return torch.stack([llm.embed(torch.tensor(row)).float().mean(0) for row in ids])


def fit(outputs: Tensor, said: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """The projector's weight ``[D_llm, D]`` and bias ``[D_llm]``, from ``[N, Q, D]`` and targets ``[N, D_llm]``."""
    x, y = outputs.flatten(0, 1).double(), said.repeat_interleave(outputs.shape[1], 0).double()
    mean, centre = x.mean(0), y.mean(0)
    x, y = x - mean, y - centre
    gram = x.T @ x
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ y)
    return weight.T.float(), (centre - mean @ weight).float()


def costs(llm: LLM, outputs: Tensor, samples: list[Sample], weight: Tensor, bias: Tensor) -> float:
    """The captions' loss, nats a token, with soft prompts made of outputs ``[N, Q, D]``."""
    rng = random.Random(0)
    texts = [[llm.text.encode(sample.captions[0], MAX_TOKENS, rng)] for sample in samples]
    rows = llm.layout(texts, outputs.shape[1])
    with torch.no_grad():
        return float(llm.loss(outputs @ weight.T + bias, rows)) / rows.labels


def write(vpg_folder: str, llm_name: str, data: list[str], pictures: int, out: Path, seed: int = 0) -> float:
    """Write the folder; returns the mean cosine of soft prompts and words, both from the words' mean."""
    registry, settings = default_registry(), Settings(device="cpu")
    source, target = resolve_source(vpg_folder, registry, settings), resolve_target(llm_name, registry, settings)
    machine = choose_machine(settings, "float32")
    vpg, llm = load_vpg(source, machine), load_llm(target, machine, settings)
    opened = open_data(data)
    numbers = random.Random(seed).sample(range(opened.images), min(pictures, opened.images))
    samples = [opened.sample(0, number) for number in numbers]
    outputs, said = outputs_of(vpg, samples), said_by(llm, samples)
    shown, told = outputs[:JUDGED], samples[:JUDGED]
    (weight, bias), spread = choose_spread(
        fit(outputs, said), outputs.mean((0, 1)), lambda *p: costs(llm, shown, told, *p), say=print
    )
    vpg.save_part(
        out,
        projector_module(weight, bias, torch.device("cpu")),
        references={"llm": target.reference(), "pretrained": source.scratch_from},
    )
    print(f"the soft prompts' distance from their mean is scaled by {spread:g}")
    prompts = outputs.flatten(0, 1) @ weight.T + bias - said.mean(0)
    words = (said - said.mean(0)).repeat_interleave(outputs.shape[1], 0)
    return float(torch.nn.functional.cosine_similarity(prompts, words).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vpg", required=True, help="a VPG's folder, as `vpgt init-vpg` writes it")
    parser.add_argument("--llm", required=True, help="an alias, folder or GGUF file")
    parser.add_argument("--data", nargs="+", required=True, help="captioned pictures")
    parser.add_argument("--pictures", type=int, default=3000, help="how many of them are used")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        cosine = write(given.vpg, given.llm, given.data, given.pictures, given.out)
    except VpgtError as error:
        raise SystemExit(str(error)) from error
    print(f"{given.out}: soft prompts and the words of their captions have a mean cosine of {cosine:.2f}")


if __name__ == "__main__":
    main()

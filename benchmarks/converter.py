"""The word converter in closed form against the paper's SGD, and what each step of the pair matching brings.

    python benchmarks/converter.py                       # synthetic embeddings at real sizes, a few minutes
    python benchmarks/converter.py --scale tiny --json out.json
    python benchmarks/converter.py --llms SOURCE TARGET captions.txt   # model folders; one caption a line

The pair matching is shown on the miniature LLMs that ship with the toolkit, and on those of --llms.

Every method runs in a process of its own, so that its peak memory is its own; all run in the same call on the same
data, so that their ratio means something. Synthetic embeddings: two tables of the same words whose relation is linear
with noise, or of low rank with noise; words occur by Zipf's law in captions of 13 tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from vpgtrans_core.llm.embeddings import open_embeddings
from vpgtrans_core.miniature import ZOO, language, world
from vpgtrans_core.start.converter import WordConverter, cosine, fit_ridge, fit_sgd, split_pairs
from vpgtrans_core.start.pairs import KINDS, CaptionTokens, WordPairs, word_pairs


@dataclass(frozen=True)
class Scale:
    """Sizes of a synthetic pair of LLMs and of the captions between them."""

    d_s: int
    d_t: int
    v_s: int
    v_t: int
    words: int
    tokens: int
    epochs: int = 8


SCALES = {
    "tiny": Scale(32, 48, 900, 700, 400, 20_000),
    "mid": Scale(768, 768, 50_272, 32_000, 7_138, 230_000),  # OPT-125m to a LLaMA of its width
    "large": Scale(2560, 4096, 50_272, 32_000, 7_138, 230_000, epochs=1),  # OPT-2.7B to LLaMA-7B
}
CAPTION = 13
BATCH = 4096
RELATIONS = ("linear", "low rank")


@dataclass(frozen=True)
class Data:
    source: Tensor
    target: Tensor
    fit: WordPairs
    held: WordPairs
    tokens: CaptionTokens


def synthetic(scale: Scale, relation: str, seed: int = 0) -> Data:
    """Tables ``[V_s, D_s]`` and ``[V_t, D_t]``, the words that captions use, a tenth of them held out."""
    g = torch.Generator().manual_seed(seed)
    source, target = torch.randn(scale.v_s, scale.d_s, generator=g), torch.randn(scale.v_t, scale.d_t, generator=g)
    rank = scale.d_s // (1 if relation == "linear" else 4)
    # What the words mean, `rank` numbers each with a falling spectrum, is in both tables; the rest is noise.
    meaning = torch.randn(scale.words, rank, generator=g) * torch.linspace(1, 0.1, rank)
    level = meaning.norm() / (scale.words * scale.d_s) ** 0.5
    into_s, into_t = (torch.randn(rank, d, generator=g) / rank**0.5 for d in (scale.d_s, scale.d_t))
    if relation == "linear":  # the target follows from the source's rows
        source[: scale.words] = meaning @ into_s
        target[: scale.words] = source[: scale.words] @ torch.randn(scale.d_s, scale.d_t, generator=g) / scale.d_s**0.5
    else:  # both have the meaning, each with noise of its own
        source[: scale.words] = meaning @ into_s * (scale.d_s / rank) ** 0.5
        target[: scale.words] = meaning @ into_t * (scale.d_s / rank) ** 0.5
        source[: scale.words] += 0.3 * level * torch.randn(scale.words, scale.d_s, generator=g)
    target[: scale.words] += 0.3 * level * torch.randn(scale.words, scale.d_t, generator=g)
    ids = tuple((i,) for i in range(scale.words))
    frequency = 1.0 / (torch.randperm(scale.words, generator=g) + 1).double()
    drawn = torch.multinomial(frequency, scale.tokens, replacement=True, generator=g)
    counts = torch.bincount(drawn, minlength=scale.words).double()
    pairs = WordPairs(ids, ids, counts, ("same",) * scale.words, torch.ones(scale.words, dtype=torch.bool))
    fit, held = split_pairs(pairs.subset(counts.nonzero().flatten()))
    kept = drawn[torch.isin(drawn, torch.tensor([w[0] for w in fit.source]))]
    kept = kept[: len(kept) // CAPTION * CAPTION]
    lengths = torch.full((len(kept) // CAPTION,), CAPTION)
    return Data(0.05 * source, 0.05 * target, fit, held, CaptionTokens(kept, kept, lengths, 0))


METHODS: dict[str, Callable[[Data, Scale], WordConverter]] = {
    "paper's SGD": lambda d, s: fit_sgd(
        d.tokens, d.source, d.target, epochs=s.epochs, batch=min(BATCH, max(1, len(d.tokens.lengths) // 4))
    ),
    "ridge, every word once": lambda d, s: fit_ridge(d.fit, d.source, d.target, power=0.0),
    "ridge, root of frequency": lambda d, s: fit_ridge(d.fit, d.source, d.target, power=0.5),
    "ridge, frequency": lambda d, s: fit_ridge(d.fit, d.source, d.target, power=1.0),
}


def measure(scale: str, relation: str, method: str) -> dict[str, Any]:
    """One method on one kind of data; memory is the peak above what the tables and captions took."""
    data = synthetic(SCALES[scale], relation)
    torch.linalg.eigh(torch.eye(8))  # load the library before the clock runs
    before = resident("VmRSS")
    reset_peak()
    start = time.perf_counter()
    converter = METHODS[method](data, SCALES[scale])
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    return {
        "relation": relation,
        "method": method,
        "seconds": seconds,
        "memory_gb": peak,
        "by_token": cosine(converter, data.fit, data.source, data.target, by_token=True),
        "by_type": cosine(converter, data.fit, data.source, data.target),
        "held_out": cosine(converter, data.held, data.source, data.target),
    }


def reset_peak() -> None:
    """Let the kernel forget this process's peak memory so far."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident(name: str) -> float:
    """Resident memory of this process in GB, now (``VmRSS``) or at its peak (``VmHWM``)."""
    line = next(x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


def compare(scale: str) -> list[dict[str, Any]]:
    """Every method on every kind of synthetic data, each in a fresh process."""
    rows = []
    for relation in RELATIONS:
        for method in METHODS:
            command = [sys.executable, __file__, "--scale", scale, "--one", relation, method]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        paper = next(r for r in rows if r["relation"] == relation and r["method"] == "paper's SGD")
        for row in rows:
            if row["relation"] == relation:
                row["times_faster"] = paper["seconds"] / row["seconds"]
    return rows


def read_llms(source: Path, target: Path, captions: Path) -> tuple[Path, Path, list[str]]:
    return source, target, captions.read_text(encoding="utf-8").splitlines()


def miniature(images: int = 1000) -> list[tuple[Path, Path, list[str]]]:
    """The miniature's transfers with captions of its world."""
    rng = random.Random(0)
    captions = [text for _ in range(images) for text in language.captions(world.sample(rng), rng)]
    pairs = [("opt-mini-s", "opt-mini-l"), ("opt-mini-s", "llama-mini"), ("opt-mini-s", "t5-mini")]
    return [(ZOO / s, ZOO / t, captions) for s, t in pairs if (ZOO / s).is_dir() and (ZOO / t).is_dir()]


def matching(source: Path, target: Path, captions: list[str]) -> list[dict[str, Any]]:
    """What each step of the matching brings: pairs, share of the captions' words, held-out cosine.

    A tenth of the words is held out of every fit, the same in each row; `held_out_shuffled` is the control.
    """
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (source, target)]
    source_table, target_table = (open_embeddings(folder).table() for folder in (source, target))
    pairs = word_pairs(*tokenizers, captions)
    fit, held = split_pairs(pairs)
    held = held.whole_words()
    all_words = float(pairs.whole_words().weights.sum())
    rows = []
    for last in range(len(KINDS)):
        kinds = KINDS[: last + 1]
        part = fit.of_kinds(kinds)
        row = {
            "step": f"+ {KINDS[last]}" if last else KINDS[0],
            "pairs": len(part),
            "words_covered": float(pairs.of_kinds(kinds).whole_words().weights.sum()) / all_words,
        }
        if len(part) > 1:
            converter = fit_ridge(part, source_table, target_table)
            wrong = fit_ridge(part.shuffled(0), source_table, target_table)
            row["held_out"] = cosine(converter, held, source_table, target_table)
            row["held_out_shuffled"] = cosine(wrong, held, source_table, target_table)
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[f"{v:.3f}" if isinstance(v := r.get(n, ""), float) else str(v) for n in names] for r in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="mid")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--llms", nargs=3, type=Path, metavar=("SOURCE", "TARGET", "CAPTIONS"), help="two model folders"
    )
    parser.add_argument("--one", nargs=2, metavar=("RELATION", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.scale, *options.one)))
        return
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "scale": options.scale}
    result["methods"] = compare(options.scale)
    print(table(result["methods"]))
    for source, target, captions in [*miniature(), *([read_llms(*options.llms)] if options.llms else [])]:
        name = f"{source.name} -> {target.name}"
        result[name] = matching(source, target, captions)
        print(f"\n{name}\n{table(result[name])}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""An LLM in shards (`--shard`) against whole copies: the same results, and the memory that each process takes.

    python benchmarks/sharding.py same                     # the miniature's targets on 2 and 4 processes
    python benchmarks/sharding.py memory --processes 2     # a random LLaMA of 1 billion parameters; 6 GB of RAM
    python benchmarks/sharding.py memory --processes 4 --shards-only
    python benchmarks/sharding.py memory --billions 0.1 --processes 2

All runs are started by torchrun, on CPUs. `same` compares every loss of two runs, relatively, and every weight but the
biases of keys: these have no gradient, so that AdamW makes steps of rounding errors. `memory` compares what a
process takes from the loading of the LLM to the end of the training with what `vpgt plan` foresees of its weights, and
the activations of a micro-batch: of whole copies and of shards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

import vpgtrans_core
from vpgtrans_core.llm.empty import empty_model
from vpgtrans_core.machine import BYTES_PER_POSITION
from vpgtrans_core.miniature.data import save_training
from vpgtrans_core.planning.cost.holding import Weights, in_shards, weights_of
from vpgtrans_core.planning.cost.shapes import llm_shape
from vpgtrans_core.weights import INDEX, save_tensors, write_json

TARGETS = ("opt-mini-l", "llama-mini", "t5-mini")
SHORT = {
    "--limit": 96, "--val-images": 16, "--stage1-steps": 3, "--stage2-steps": 3, "--batch-size": 40, "--workers": 0,
    "--stage1-optimizer": "adamw", "--micro-positions": 512, "--stage1-lr": 5e-4, "--stage2-lr": 1e-4,
    "--stage2-min-lr": 1e-5, "--stage2-lr-warmup-start": 1e-6,
}  # fmt: skip
"""The learning rates are the paper's: those of the miniature, thirty times as high, make much of rounding errors."""
Held = Literal["copies", "shards"]
LAYERS, WORDS = 16, 1024
MEMORY_POSITIONS = 64


@dataclass(frozen=True)
class Difference:
    """How far a run in shards is from one of whole copies."""

    target: str
    processes: int
    loss: float
    weight: float


@dataclass(frozen=True)
class Memory:
    """What the hungriest process took for its LLM and the training, in bytes; `foreseen` of it."""

    processes: int
    held: Held
    foreseen: float
    measured: float


def launch(processes: int, *arguments: str) -> None:
    """Run a module or file in so many processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")


# The same results


def transfer(target: str, out: Path, processes: int, shard: bool) -> Path:
    """A short transfer to one of the miniature's targets by the command line; returns its folder."""
    values = [str(part) for pair in SHORT.items() for part in pair]
    options = ["--from", "opt-mini-s", "--to", target, "--out", str(out), "--device", "cpu", "--no-cache-features"]
    launch(processes, "-m", "vpgtrans_core.cli.main", "transfer", *options, *values, *["--shard"] * shard)
    return out


def zoo() -> Path:
    return Path(vpgtrans_core.__file__).parent / "miniature" / "zoo"


def difference(target: str, processes: int, folder: Path) -> Difference:
    """Train in both ways and compare."""
    one, other = (transfer(target, folder / f"{target}-{processes}-{s}", processes, s) for s in (False, True))
    pairs = list(zip(losses(one), losses(other), strict=True))
    mine, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    return Difference(
        target,
        processes,
        max(abs(a - b) / abs(a) for a, b in pairs),
        max(float((v.float() - theirs[n].float()).abs().max()) for n, v in mine.items() if not n.endswith("key.bias")),
    )


def losses(folder: Path) -> list[float]:
    """All losses of a run, held-out ones too, in order."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [value for line in lines for name, value in line.items() if name.endswith("loss") and value is not None]


# Memory


def large_config(billions: float) -> LlamaConfig:
    """A LLaMA of so many parameters, nearly all of them in its blocks."""
    width = round((billions * 1e9 / LAYERS / 16) ** 0.5 / 64) * 64  # a block has 16 D^2
    return LlamaConfig(
        vocab_size=WORDS, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS,
        num_attention_heads=width // 64, max_position_embeddings=512, dtype="bfloat16",
    )  # fmt: skip


def save_large(folder: Path, billions: float) -> PreTrainedConfig:
    """A random LLM in bfloat16 with the tokenizer of the miniature's LLaMA, one file a block."""
    config = large_config(billions)
    folder.mkdir()
    for file in (zoo() / "llama-mini").glob("*token*"):
        shutil.copy(file, folder)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    shapes = {name: value.shape for name, value in empty_model(config).state_dict().items()}
    places = {name: "-".join(["part", *[p for p in name.split(".") if p.isdigit()]]) for name in shapes}
    generator = torch.Generator().manual_seed(0)
    for place in dict.fromkeys(places.values()):
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            for name, shape in shapes.items()
            if places[name] == place
        }
        save_tensors(folder / f"{place}.safetensors", tensors)
    write_json(folder / INDEX, {"metadata": {}, "weight_map": {n: f"{p}.safetensors" for n, p in places.items()}})
    return config


def weights(config: PreTrainedConfig) -> Weights:
    """The LLM's weights in bfloat16, as a plan counts them."""
    return weights_of(llm_shape(config.to_dict(), "vpgtrans_core.llm.decoder:DecoderOnlyLLM"), 2)


def foreseen(config: PreTrainedConfig, processes: int, held: Held) -> float:
    """Bytes that a process takes for the LLM and the activations of a micro-batch."""
    own = weights(config)
    activations = float(BYTES_PER_POSITION * config.num_hidden_layers * config.hidden_size * MEMORY_POSITIONS)
    return activations + (in_shards(own, processes) if held == "shards" else own.total)


def memory(folder: Path, config: PreTrainedConfig, processes: int, held: Held) -> Memory:
    """Train shortly with the LLM in `folder`, and measure each process."""
    out = folder.parent / f"memory-{processes}-{held}"
    save_training(32, Path(f"{out}-data"))
    launch(processes, __file__, "worker", str(folder), str(out), held)
    taken = [json.loads(path.read_text()) for path in out.parent.glob(f"{out.name}.*.json")]
    assert len(taken) == processes
    return Memory(processes, held, foreseen(config, processes, held), max(taken))


def work(target: str, out: str, held: str) -> None:
    """One process of a run, up to its last step; it writes what it took, in bytes, beside the run's folder."""
    import vpgtrans_core.run.run as running

    torch.set_num_threads(1)
    before: list[int] = []
    load = running.load_llm

    def loaded(*arguments: Any) -> Any:
        if not before:
            empty_model(AutoConfig.from_pretrained(target))  # so that its code is not counted
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            before.append(status("VmRSS"))
        return load(*arguments)

    def finished(self: Any, *arguments: Any) -> None:
        taken = status("VmHWM") - before[0]
        Path(f"{out}.{os.environ['RANK']}.json").write_text(json.dumps(taken))

    running.load_llm, running.Run.finish = loaded, finished  # type: ignore[assignment,method-assign]
    values = {"limit": 24, "val_images": 0, "stage1_steps": 1, "stage2_steps": 1, "batch_size": 20, "workers": 0}
    vpgtrans_core.transfer(
        source="opt-mini-s", target=target, out=out, shard=held == "shards" or None, save="vpg",
        dtype="bfloat16", device="cpu",
        micro_positions=MEMORY_POSITIONS, source_loss=False, start="random",
        data=(f"{out}-data/captions.json",), **values,
    )  # fmt: skip


def status(name: str) -> int:
    """Bytes that the system says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["same", "memory", "worker"])
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--processes", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--billions", type=float, default=1.0, help="parameters of the LLM whose memory is measured")
    parser.add_argument("--shards-only", action="store_true", help="measure no whole copies, which take more memory")
    parser.add_argument("--json", type=Path, help="where the measurements go, too")
    if sys.argv[1:2] == ["worker"]:
        return work(sys.argv[2], sys.argv[3], sys.argv[4])
    arguments = parser.parse_args()
    results: list[Difference | Memory] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.part == "same":
            print("| target | processes | largest difference of a loss | of a weight |\n|---|---|---|---|")
            for target in arguments.targets:
                for count in arguments.processes:
                    found = difference(target, count, folder)
                    results.append(found)
                    print(f"| {target} | {count} | {found.loss:.1e} | {found.weight:.1e} |", flush=True)
        else:
            config = save_large(folder / "llm", arguments.billions)
            print("| processes | LLM | foreseen a process, GB | measured | of foreseen |\n|---|---|---|---|---|")
            kinds: list[Held] = ["shards"] if arguments.shards_only else ["copies", "shards"]
            for count, kind in itertools.product(arguments.processes, kinds):
                row = memory(folder / "llm", config, count, kind)
                results.append(row)
                share = row.measured / row.foreseen
                print(
                    f"| {count} | {kind} | {row.foreseen / 1e9:.2f} | {row.measured / 1e9:.2f} | {share:.2f} |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main()

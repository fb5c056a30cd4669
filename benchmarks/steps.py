"""Time and memory of a training step: the paper's way against ours, each lever alone.

    python benchmarks/steps.py                            # OPT, LLaMA and T5 at mid size on this machine, fp32 and bf16
    python benchmarks/steps.py --family opt --headline --rounds 5 --json opt.json
    python benchmarks/steps.py --device cuda              # OPT-2.7B, OPT-6.7B, LLaMA-7B, FlanT5-XL with ViT-g
    python benchmarks/steps.py --captions 1 --images 40   # one caption an image, as LAION, CC and LLaVA-558k have
    python benchmarks/steps.py --tiny                     # seconds; shows that it runs

All variants of a family run in turn (A B C A B C ...) in one process on the same weights and captions, so that noise
meets all of them; medians are shown, and ratios to the plain step in fp32 (on a GPU: in the half precision of the
others). A step is forward and backward of `--images` images with `--captions` captions each: at once in the plain way
(on a GPU as much at once as it holds), in ours in micro-batches as `vpgt transfer` finds them.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from plain import plain_step
from shapes import CAPTIONS_AN_IMAGE, FAMILIES, Work, build_model, make_work
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from variants import COMPILED, VARIANTS, Variant

from vpgtrans_core.data.sample import VisualKind
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import Machine
from vpgtrans_core.recipes.lists import PAPER
from vpgtrans_core.train.step import Batch, Stepper
from vpgtrans_core.vlm.model import VLModel

GPU_SHAPES = ("opt-2.7b", "opt-6.7b", "llama-7b", "flan-t5-xl")
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
"""Dense bf16 TFLOP/s by the makers' data sheets."""
STAGE1_CAPTIONS, STAGE2_CAPTIONS = 1.4e6, 12.4e6
"""Captions of the paper's OPT-2.7B -> 6.7B run: 13.8 million in all, 1.4 of them in the warm-up."""


@dataclass
class Result:
    """What was measured of one variant: `seconds` and `memory` are those of a step, `speedup` and `memory_share` are
    against the plain step of the same stage; `captions` are those of an image; `mfu` is the share of the GPU's dense
    bf16 peak that its own work used."""

    shape: str
    captions: int
    stage: int
    name: str
    half: bool
    seconds: float
    captions_per_second: float
    speedup: float
    memory_gb: float | None
    memory_share: float | None
    tflop: float
    mfu: float | None = None


class Bench:
    """The models of one shape, and its variants as functions that compute a step."""

    def __init__(
        self,
        shape: str,
        device: torch.device,
        images: int,
        *,
        halves: bool = True,
        precise: torch.dtype | None = None,
        captions: int = CAPTIONS_AN_IMAGE,
    ) -> None:
        self.shape = shape
        self.device = device
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        precise = precise or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        self.models = {False: build_model(shape, precise, device)}
        machine = Machine(self.accelerator, device, precise, None)
        config = self.models[False].llm.model.config
        self.micro_positions = machine.positions_at_once(config.num_hidden_layers, config.hidden_size)
        if halves and device.type == "cpu":
            self.models[True] = _halved(self.models[False])
        self.padded = {half: _without_sharing(model.llm) for half, model in self.models.items()}
        self.work: Work = make_work(self.models[False], images, captions=captions)
        self.frozen = {half: self._frozen(model) for half, model in self.models.items()}

    def step(self, variant: Variant) -> Callable[[], float]:
        """A function that computes the variant's gradients and returns its loss."""
        model = self.models[variant.half]
        half = model.llm.model.dtype if model.llm.model.dtype == torch.bfloat16 else None
        visual, kind = self._visual(variant)
        if variant.llm == "plain":
            run = self._plain(model, variant.vpg, visual, half)
        else:
            run = self._ours(model, variant, visual, kind, half)

        def step() -> float:
            model.train_only(PAPER.stages[variant.stage].trains)
            model.zero_grad(set_to_none=True)
            with torch.compiler.set_stance("default" if variant.compiled else "force_eager"):
                return run()

        return step

    def compile(self) -> None:
        """Have the compiled variants' blocks compiled."""
        for model in self.models.values():
            model.llm.compile()

    def leave_gradients(self, variant: Variant) -> None:
        """Gradients as the step before left them: every way to compute a step needs the same ones."""
        model = self.models[variant.half]
        model.train_only(PAPER.stages[variant.stage].trains)
        model.zero_grad(set_to_none=True)
        for parameter in model.trained().values():
            parameter.grad = torch.ones_like(parameter)

    def gradients(self, variant: Variant) -> dict[str, Tensor]:
        """The gradients that a variant leaves, by parameter."""
        self.step(variant)()
        trained = self.models[variant.half].trained()
        return {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}

    def _plain(self, model: VLModel, vpg: str, visual: Tensor, half: torch.dtype | None) -> Callable[[], float]:
        parts = 1

        def run() -> float:
            nonlocal parts
            while True:
                try:
                    with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
                        return plain_step(model, visual, self.work.texts, vpg=vpg, parts=parts)
                except torch.OutOfMemoryError:  # as ours does: half as much at once
                    if parts >= len(self.work.texts):
                        raise
                parts *= 2
                model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()

        return run

    def _ours(
        self, model: VLModel, variant: Variant, visual: Tensor, kind: VisualKind, half: torch.dtype | None
    ) -> Callable[[], float]:
        llm = self.padded[variant.half] if variant.llm == "rows" else model.llm
        texts = self.work.texts
        if variant.llm != "tree":  # each caption an image of its own
            each = [i for i, image in enumerate(texts) for _ in image]
            texts, visual = [[text] for image in texts for text in image], visual[each]
        vl = VLModel(model.vpg, model.projector, llm)
        batch = Batch(visual, kind, texts, [(0, i, 0) for i in range(len(texts))])

        def run() -> float:
            stepper = Stepper(vl, self.accelerator, self.micro_positions, half)
            return stepper.backward(batch).loss

        return run

    def _visual(self, variant: Variant) -> tuple[Tensor, VisualKind]:
        features, outputs = self.frozen[variant.half]
        if variant.vpg == "features":
            return features, "features"
        return (outputs, "outputs") if variant.vpg == "outputs" else (self.work.pixels, "pixels")

    @torch.no_grad()
    def _frozen(self, model: VLModel) -> tuple[Tensor, Tensor]:
        """What a cache would hold of the work's images."""
        half = model.llm.model.dtype
        with torch.autocast(self.device.type, dtype=half, enabled=half == torch.bfloat16):
            features = model.vpg.features(self.work.pixels)
            return features, model.vpg.prompts(features)


def _halved(model: VLModel) -> VLModel:
    """The same weights with the frozen parts in bf16."""
    vpg, projector, llm = copy.deepcopy(model.vpg), copy.deepcopy(model.projector), copy.copy(model.llm)
    trained = {name for name, _ in vpg.trained()}
    for name, parameter in vpg.named_parameters():
        if name not in trained:
            parameter.data = parameter.data.bfloat16()
    body = copy.deepcopy(llm.model).bfloat16()
    return VLModel(vpg, projector, type(llm)(body, llm.tokenizer, llm.family))


def _without_sharing(llm: LLM) -> LLM:
    padded = copy.copy(llm)
    padded.shares_prefix = False
    return padded


def measure(
    shape: str,
    device: torch.device,
    images: int,
    rounds: int,
    variants: tuple[Variant, ...],
    captions: int = CAPTIONS_AN_IMAGE,
) -> list[Result]:
    """Time, memory and work of the variants, in turn."""
    bench = Bench(shape, device, images, halves=any(v.half for v in variants), captions=captions)
    if any(variant.compiled for variant in variants):
        bench.compile()
    steps = {variant: bench.step(variant) for variant in variants}
    flops, memory = {}, {}
    for variant, step in steps.items():
        began = time.perf_counter()
        if device.type == "cuda":
            step()  # finds how much fits at once, and compiles
        bench.leave_gradients(variant)
        memory[variant], flops[variant] = _memory_and_work(bench, variant, step, device)
        took = time.perf_counter() - began
        print(f"{shape}: warmed up {variant.name} of stage {variant.stage} in {took:.0f} s", file=sys.stderr)
    seconds: dict[Variant, list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, step in steps.items():
            seconds[variant].append(_seconds(step, device))
    median = {variant: statistics.median(times) for variant, times in seconds.items()}
    plain = {v.stage: v for v in variants if v.llm == "plain" and v.vpg == "caption" and not v.half}
    results = []
    for variant in variants:
        base = plain[variant.stage]
        used, most = memory[variant], memory[base]
        results.append(
            Result(
                shape=shape,
                captions=captions,
                stage=variant.stage,
                name=variant.name,
                half=variant.half or device.type == "cuda",
                seconds=median[variant],
                captions_per_second=bench.work.captions / median[variant],
                speedup=median[base] / median[variant],
                memory_gb=used,
                memory_share=used / most if used is not None and most else None,
                tflop=flops[variant] / 1e12,
                mfu=flops[variant] / median[variant] / 1e12 / peak if (peak := peak_tflops(device)) else None,
            )
        )
    return results


def _memory_and_work(
    bench: Bench, variant: Variant, step: Callable[[], float], device: torch.device
) -> tuple[float | None, float]:
    """Gigabytes and FLOPs of a step. No counter sees the work inside of a compiled one: its eager twin is counted."""
    with FlopCounterMode(display=False) as counter:
        if variant.compiled:
            bench.step(replace(variant, compiled=False))()
        else:
            memory = _memory(step, device)
    return _memory(step, device) if variant.compiled else memory, float(counter.get_total_flops())


def _seconds(step: Callable[[], float], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _memory(step: Callable[[], float], device: torch.device) -> float | None:
    """Gigabytes that a step needs beyond models and gradients, which are there before; None where the system does not
    tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e9
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        step()
        return (_status("VmHWM") - before) / 1e6
    except (OSError, AttributeError):
        return None


def _status(name: str) -> float:
    """A line of /proc/self/status in kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return float(line.split()[1])


def peak_tflops(device: torch.device) -> float | None:
    """The device's dense bf16 TFLOP/s, where it is known."""
    if device.type != "cuda":
        return None
    return next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name(device)), None)


def table(results: list[Result]) -> str:
    """The results as a markdown table."""
    lines = [
        "| shape | captions | stage | variant | s a step | captions/s | faster | GB a step | of plain | TFLOP | MFU |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        memory = "" if r.memory_gb is None else f"{r.memory_gb:.2f}"
        share = "" if r.memory_share is None else f"{r.memory_share:.2f}"
        mfu = "" if r.mfu is None else f"{100 * r.mfu:.0f} %"
        lines.append(
            f"| {r.shape} | {r.captions} | {r.stage} | {r.name} | {r.seconds:.3g} | {r.captions_per_second:.3g} | "
            f"{r.speedup:.1f}x | {memory} | {share} | {r.tflop:.2g} | {mfu} |"
        )
    return "\n".join(lines)


def gpu_hours(results: list[Result]) -> dict[str, dict[str, float]]:
    """Hours of this device for the paper's amount of data (1.4 + 12.4 million captions), plain and ours."""
    hours: dict[str, dict[str, float]] = {}
    for shape in dict.fromkeys(r.shape for r in results):
        rates = {(r.stage, r.name): r.captions_per_second for r in results if r.shape == shape}
        ways = {
            "plain": ("plain", "plain"),
            "ours": ("first epoch: VPG once, tree", "VPG once, tree"),
            "ours, compiled": ("first epoch, compiled", "VPG once, compiled"),
        }
        hours[shape] = {
            way: STAGE1_CAPTIONS / rates[1, one] / 3600 + STAGE2_CAPTIONS / rates[2, two] / 3600
            for way, (one, two) in ways.items()
            if (1, one) in rates and (2, two) in rates
        }
    return hours


def main(arguments: list[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default all")
    parser.add_argument("--shape", action="append", help=f"a shape of its own, for instance {', '.join(GPU_SHAPES)}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="images a step; default 8, on a GPU 64")
    parser.add_argument("--captions", type=int, default=CAPTIONS_AN_IMAGE, help="captions an image; LAION, CC have one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="variants whose name holds this text, besides the plain ones")
    parser.add_argument("--headline", action="store_true", help="the plain steps and the default ones, no single lever")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    size = "tiny" if options.tiny else "mid"
    shapes = options.shape or [f"{size}-{family}" for family in options.family or FAMILIES]
    if device.type == "cuda" and not options.tiny and not options.shape and not options.family:
        shapes = list(GPU_SHAPES)
    variants = tuple(
        v
        for v in (VARIANTS if device.type == "cpu" else VARIANTS + COMPILED)
        if (not v.half or device.type == "cpu")
        and (not options.only or v.name == "plain" or options.only in v.name)
        and (v.headline or not options.headline)
    )
    images = options.images or (64 if device.type == "cuda" and not options.tiny else 8)
    results: list[Result] = []
    for shape in shapes:
        results += measure(shape, device, images, options.rounds, variants, options.captions)
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    record: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "peak_tflops": peak_tflops(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": images,
        "rounds": options.rounds,
        "results": [asdict(r) for r in results],
        "hours_of_the_papers_data": gpu_hours(results),
    }
    print(table(results))
    for shape, hours in record["hours_of_the_papers_data"].items():
        if hours:
            print(f"{shape}: 1.4 + 12.4 million captions: " + ", ".join(f"{k} {v:.3g} h" for k, v in hours.items()))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()

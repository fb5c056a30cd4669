"""The levers for one GPU, before and after in one run: rounded sizes, compiled blocks, float8; five captions and one.

    python benchmarks/one_gpu.py                              # an H100: LLaMA-7B, OPT-2.7B, FlanT5-XL with ViT-g
    python benchmarks/one_gpu.py --shape llama-7b --captions 1
    python benchmarks/one_gpu.py --device cpu --tiny          # seconds; shows that it runs

Each way takes the same steps, of `--captions-a-step` captions that differ from step to step as in training, in
micro-batches as `vpgt transfer` finds them. Shown are captions a second over the second half of the steps; how much
slower the first steps are, each against that half's median; how many shapes of rows were met; and the MFU, by the work
with exact sizes: padding is not credited to a way that pads. "Plain" is the paper's way (`plain.py`), "before" ours
with exact sizes. Float8 needs an H100 or a later GPU. On a CPU nothing is compiled, and float8's numbers are computed
without the kernel: its time means nothing.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from plain import plain_step
from shapes import Work, build_model, make_work
from steps import peak_tflops
from torch.utils.flop_counter import FlopCounterMode

from vpgtrans_core.llm.float8 import use_float8, why_not_float8
from vpgtrans_core.llm.sizes import EXACT, ROUNDED, Sizes
from vpgtrans_core.machine import Machine
from vpgtrans_core.recipes.lists import PAPER
from vpgtrans_core.train.step import Batch, Stepper
from vpgtrans_core.vlm.model import VLModel

SHAPES = ("llama-7b", "opt-2.7b", "flan-t5-xl")
TINY = ("tiny-llama", "tiny-opt", "tiny-t5")
CAPTIONS = (5, 1)
FIRST = 12
"""Steps at the beginning whose speed is set against the rest."""


@dataclass(frozen=True)
class Way:
    """One way to compute steps.

    Attributes:
        name: in the table.
        sizes: of rows; None for the paper's way.
        compiled: whether the LLM's blocks are.
        float8: whether their products are.
        vit: whether the ViT's blocks are compiled, too.
    """

    name: str
    sizes: Sizes | None
    compiled: bool = False
    float8: bool = False
    vit: bool = False


WAYS = (
    Way("plain", None),
    Way("before", EXACT),
    Way("before, compiled", EXACT, compiled=True),
    Way("rounded", ROUNDED),
    Way("rounded, compiled", ROUNDED, compiled=True),
    Way("rounded, compiled, ViT too", ROUNDED, compiled=True, vit=True),
    Way("rounded, compiled, ViT too, float8", ROUNDED, compiled=True, float8=True, vit=True),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one way. `first` is the median of the first steps over that of the second half, `slowest`
    the slowest of the first; `loss` is that of the last step."""

    shape: str
    captions: int
    stage: int
    way: str
    captions_per_second: float
    faster: float
    first: float
    slowest: float
    shapes: int
    mfu: float | None
    loss: float


class Steps:
    """The steps of one shape with so many captions an image."""

    def __init__(self, model: VLModel, captions: int, steps: int, captions_a_step: int) -> None:
        images = max(1, captions_a_step // captions)
        self.model = model
        self.works: list[Work] = [make_work(model, images, seed=n, captions=captions) for n in range(steps)]
        self.captions = sum(work.captions for work in self.works) / steps
        device = model.device
        self.half = model.llm.model.dtype if model.llm.model.dtype == torch.bfloat16 else None
        machine = Machine(Accelerator(cpu=device.type == "cpu"), device, model.llm.model.dtype, self.half)  # type: ignore[arg-type]
        config = model.llm.model.config
        positions = machine.positions_at_once(config.num_hidden_layers, config.hidden_size)
        self.stepper = Stepper(model, machine.accelerator, positions, self.half)

    def seconds(self, way: Way, stage: int) -> tuple[list[float], int, float]:
        """Seconds of each step, how many shapes of rows they had, and the last loss."""
        self.model.train_only(PAPER.stages[stage].trains)
        step = self._plain if way.sizes is None else self._ours
        taken, loss = [], 0.0
        with shapes_of(self.model, way.sizes or EXACT) as seen:
            for work in self.works:
                self.model.zero_grad(set_to_none=True)
                start = time.perf_counter()
                with torch.compiler.set_stance("default" if way.compiled else "force_eager"):
                    loss = step(work)
                if self.model.device.type == "cuda":
                    torch.cuda.synchronize(self.model.device)
                taken.append(time.perf_counter() - start)
        return taken, len(seen), loss

    def flops(self, stage: int) -> float:
        """The work of a step with exact sizes."""
        self.model.train_only(PAPER.stages[stage].trains)
        self.model.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            self._ours(self.works[0])
        return float(counter.get_total_flops())

    def _ours(self, work: Work) -> float:
        return self.stepper.backward(Batch(work.pixels, "pixels", work.texts)).loss

    def _plain(self, work: Work) -> float:
        parts = 1
        while True:  # as much at once as fits
            try:
                with torch.autocast(self.model.device.type, dtype=self.half, enabled=self.half is not None):
                    return plain_step(self.model, work.pixels, work.texts, parts=parts)
            except torch.OutOfMemoryError:
                if parts >= len(work.texts):
                    raise
            parts *= 2
            self.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()


@contextmanager
def shapes_of(model: VLModel, sizes: Sizes) -> Iterator[set[tuple[int, ...]]]:
    """Lay rows out in these sizes; give the shapes of those that are laid out."""
    llm: Any = model.llm
    seen: set[tuple[int, ...]] = set()
    plain: Callable[..., Any] = llm.layout

    def layout(*given: Any, **more: Any) -> Any:
        rows = plain(*given, **more)
        other = getattr(rows, "decoder_ids", rows.ids)
        seen.add((*rows.ids.shape, *other.shape, *rows.predictors.shape))
        return rows

    llm.sizes, llm.layout = sizes, layout
    try:
        yield seen
    finally:
        llm.sizes = EXACT
        del llm.layout


def measure(
    shape: str, device: torch.device, options: argparse.Namespace, stages: Sequence[int] = (1, 2)
) -> Iterator[Row]:
    """All ways with one shape, in turn; the models are loaded once, and once more in float8."""
    torch.manual_seed(0)
    plain = build_model(shape, torch.float32 if device.type == "cpu" else torch.bfloat16, device)
    models = {(False, False): plain}
    if device.type == "cuda":
        plain.llm.compile()
        vpg = copy.deepcopy(plain.vpg)
        models[False, True] = VLModel(vpg, plain.projector, plain.llm)
        models[False, True].compile_vit()
    if device.type == "cpu":
        models[True, False] = in_float8(plain)
    elif why_not_float8(device) is None:
        models[True, True] = in_float8(models[False, True])
        models[True, True].llm.compile()
    for captions in options.captions:
        for stage in stages:
            steps = {kind: Steps(m, captions, options.steps, options.captions_a_step) for kind, m in models.items()}
            first = steps[False, False]
            work, rates = first.flops(stage), {}
            for way in ways(device, float8=any(float8 for float8, _ in models)):
                taken, count, loss = steps[way.float8, way.vit].seconds(way, stage)
                rest = statistics.median(taken[len(taken) // 2 :])
                rates[way.name], peak = first.captions / rest, peak_tflops(device)
                yield Row(
                    shape=shape,
                    captions=captions,
                    stage=stage,
                    way=way.name,
                    captions_per_second=rates[way.name],
                    faster=rates[way.name] / rates["plain"],
                    first=statistics.median(taken[:FIRST]) / rest,
                    slowest=max(taken[:FIRST]) / rest,
                    shapes=count,
                    mfu=work / rest / 1e12 / peak if peak and way.sizes is not None else None,
                    loss=loss,
                )


def in_float8(model: VLModel) -> VLModel:
    """The same model with the products of its LLM's blocks in float8."""
    llm = model.llm
    body = copy.deepcopy(llm.model)
    use_float8(body, model.device)
    return VLModel(model.vpg, model.projector, type(llm)(body, llm.tokenizer, llm.family))  # type: ignore[call-arg]


def ways(device: torch.device, *, float8: bool) -> list[Way]:
    """Those that there are on a device."""
    there = [way for way in WAYS if float8 or not way.float8]
    if device.type == "cpu":
        there = [
            replace(way, name=way.name.replace("compiled, ViT too, ", ""), compiled=False, vit=False)
            for way in there
            if way.float8 or not way.compiled
        ]
    return there


def line(row: Row) -> str:
    mfu = "" if row.mfu is None else f"{row.mfu:.2f}"
    return (
        f"| {row.shape} | {row.captions} | {row.stage} | {row.way} | {row.captions_per_second:.4g} | "
        f"{row.faster:.2f}x | {row.first:.2f} | {row.slowest:.1f} | {row.shapes} | {mfu} | {row.loss:.4f} |"
    )


HEADER = """\
| shape | captions an image | stage | way | captions/s | faster | first steps | slowest of them | shapes | MFU | loss |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help=f"default {', '.join(SHAPES)}")
    parser.add_argument("--captions", type=int, action="append", help="captions an image; default 5 and 1")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--captions-a-step", type=int, default=320)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    options.captions = options.captions or list(CAPTIONS)
    device = torch.device(options.device)
    rows: list[Row] = []
    print(HEADER)
    for shape in options.shape or (TINY if options.tiny else SHAPES):
        for row in measure(shape, device, options):
            rows.append(row)
            print(line(row), flush=True)
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if options.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        record = {"device": name, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()

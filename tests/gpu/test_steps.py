"""Steps on a GPU: the gradients of the plain step, in less memory, and what happens when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from shapes import FAMILIES
from steps import Bench
from torch._dynamo.utils import counters
from variants import COMPILED, VARIANTS

from tests.benchmarks.compare import difference, plain_of
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import Machine
from vpgtrans_core.train.step import Batch, Stepper

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GPU = torch.device("cuda")
OURS = [v for v in VARIANTS if not v.half and v.llm != "plain"]


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """fp32 without TF32, and a free GPU afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_lever_leaves_the_plain_gradients(family: str) -> None:
    bench = Bench(f"tiny-{family}", GPU, images=3, precise=torch.float32)
    for variant in OURS:
        assert difference(bench.gradients(variant), bench.gradients(plain_of(variant))) < 1e-4, variant


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_near(family: str) -> None:
    """bf16 has eight bits: the gradient is right to some percent, not to 1e-4."""
    wanted = Bench(f"tiny-{family}", GPU, images=8, precise=torch.float32)
    halves = Bench(f"tiny-{family}", GPU, images=8)
    names = ("projector.weight", "projector.bias")
    for variant in (v for v in OURS if v.headline):
        exact, found = wanted.gradients(variant), halves.gradients(variant)
        error = difference({n: found[n] for n in names}, {n: exact[n] for n in names})
        assert error < 0.05, variant


def batch_of(bench: Bench) -> Batch:
    texts = bench.work.texts
    return Batch(bench.frozen[False][1], "outputs", texts, [(0, i, 0) for i in range(len(texts))])


def test_running_out_of_memory_is_answered_by_smaller_micro_batches() -> None:
    bench = Bench("mid-opt", GPU, images=64)
    model = bench.models[False]
    model.train_only(("projector",))
    stepper = Stepper(model, Accelerator(), 10**9, torch.bfloat16)
    stepper.backward(batch_of(bench))
    wanted = model.projector.weight.grad.clone()
    whole = torch.cuda.max_memory_allocated()
    model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + (whole - torch.cuda.memory_allocated()) // 3
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        stepper.backward(batch_of(bench))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert stepper.micro_positions < 10**9
    assert difference({"w": model.projector.weight.grad}, {"w": wanted}) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_a_micro_batch_takes_the_memory_that_is_foreseen(family: str) -> None:
    """What `positions_at_once` counts for a position is enough, and not several times too much."""
    bench = Bench(f"mid-{family}", GPU, images=64)
    model = bench.models[False]
    model.train_only(("projector",))
    batch = batch_of(bench)
    positions = sum(model.llm.positions(image, model.vpg.num_prompts) for image in batch.texts)
    stepper = Stepper(model, Accelerator(), 10**9, torch.bfloat16)
    stepper.backward(batch)
    model.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    stepper.backward(batch)
    used = (torch.cuda.max_memory_allocated() - before) / positions
    config = model.llm.model.config
    free, _ = torch.cuda.mem_get_info()
    at_once = Machine(Accelerator(), GPU, torch.bfloat16, torch.bfloat16).positions_at_once(
        config.num_hidden_layers, config.hidden_size
    )
    print(f"{family}: {used / config.num_hidden_layers / config.hidden_size:.1f} bytes a position, layer and unit")
    assert 0.1 < used * at_once / free < 0.95


def test_checkpointing_activations_takes_less_memory_and_leaves_the_gradient() -> None:
    bench = Bench("mid-llama", GPU, images=32)
    model = bench.models[False]
    model.train_only(("projector",))

    def step() -> tuple[torch.Tensor, int]:
        model.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        Stepper(model, Accelerator(), 10**9, torch.bfloat16).backward(batch_of(bench))
        return model.projector.weight.grad.clone(), torch.cuda.max_memory_allocated() - before

    step()
    wanted, plain = step()
    llm: LLM = model.llm
    llm.checkpoint_activations()
    found, little = step()
    assert difference({"w": found}, {"w": wanted}) < 1e-3
    assert little < 0.5 * plain


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_steps_leave_the_gradient(family: str) -> None:
    bench = Bench(f"tiny-{family}", GPU, images=6, precise=torch.float32)
    counters.clear()
    bench.compile()
    variants = [v for v in COMPILED if v.vpg != "image"]
    wanted = [bench.gradients(replace(v, compiled=False)) for v in variants]
    assert not counters["frames"]
    assert max(difference(bench.gradients(v), w) for v, w in zip(variants, wanted, strict=True)) < 1e-4
    assert counters["frames"]["ok"] == counters["frames"]["total"] > 0

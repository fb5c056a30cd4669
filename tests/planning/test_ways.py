"""Which way to hold a large LLM fits some GPUs, and what it costs: the arithmetic is done again here, from the models'
published sizes."""

import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.planning.test_cost import REGISTRY, cost_of, vpgt
from vpgtrans_core.planning.cost.assumptions import assumptions_for
from vpgtrans_core.planning.cost.chips import chip, chips, with_link
from vpgtrans_core.planning.cost.costs import Cost
from vpgtrans_core.planning.cost.estimate import FULL, Estimator
from vpgtrans_core.planning.cost.holding import spread, weights_of
from vpgtrans_core.planning.cost.ways import LINK_SHARE, Way, would_fit
from vpgtrans_core.planning.parts import Plan
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.recipes.holding import LEFT
from vpgtrans_core.settings import Settings

LLMS = {"llama-2-70b": (80, 8192, 28672, 8192 // 8, 32000), "opt-66b": (64, 9216, 36864, 9216, 50272)}
"""Layers, width, width of the MLP, width of keys and values, vocabulary."""
STATED = {
    "h100": (85e9, 989e12, 450e9, 2.99),
    "a100-40": (42e9, 312e12, 300e9, 1.29),
    "4090": (25e9, 165e12, 32e9, 0.44),
}
"""Memory, FLOP a second, bytes a second between GPUs, USD an hour."""
PICKED = {
    ("llama-2-70b", "8xh100"): ("shards", "none"), ("llama-2-70b", "4xa100-40"): ("spread", "8bit"),
    ("llama-2-70b", "8x4090"): ("spread", "none"), ("opt-66b", "8xh100"): ("shards", "none"),
    ("opt-66b", "4xa100-40"): ("spread", "none"), ("opt-66b", "8x4090"): ("spread", "none"),
}  # fmt: skip
BATCH = 1728
CASES = list(PICKED)


@cache
def large() -> dict[tuple[str, str], Cost]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import large_llms
    finally:
        sys.path.pop(0)
    assert (tuple(LLMS), ("8xh100", "4xa100-40", "8x4090")) == (large_llms.LLMS, large_llms.MACHINES)
    costs = {case: large_llms.cost_of(*case) for case in CASES}
    document = (Path(__file__).parents[2] / "docs/launching.md").read_text()
    assert "\n".join(large_llms.table(costs)) in document, "print it again: python benchmarks/large_llms.py"
    return costs


def weights_in_blocks(llm: str) -> float:
    layers, width, mlp, keys, _ = LLMS[llm]
    return layers * (2 * width * width + 2 * width * keys + (3 if llm.startswith("llama") else 2) * width * mlp)


@cache
def planned(llm: str) -> Plan:
    return plan(Settings(source="opt-2.7b", target=llm, offline=True), registry=REGISTRY, downloads=False)


@pytest.mark.parametrize(("llm", "machine"), CASES)
def test_the_table(llm: str, machine: str) -> None:
    cost = large()[llm, machine]
    gpus, gpu = int(machine[0]), machine[2:]
    memory, *_ = STATED[gpu]
    blocks, layers, tables = weights_in_blocks(llm), LLMS[llm][0], LLMS[llm][1] * LLMS[llm][4]
    outside = 2 * tables * (2 if llm.startswith("llama") else 1)  # OPT's head is its embedding table
    each = {"none": 2, "8bit": 1, "4bit": 0.53}
    trained = max(s.trained for s in planned(llm).stages)
    for way in cost.ways:
        size = each[way.quantization] * blocks
        held = {
            "copies": (size + outside,) * 2,
            "shards": (outside + size * (1 / gpus + 3 / layers),) * 2,
            "spread": (size / gpus - 7e9, (size + outside) / gpus + 2.25 * max(size / layers, outside)),
            "spilled": (size / layers, memory - LEFT),
        }[way.hold]
        # The first of the GPUs that an LLM is spread over has less of it and the VPG.
        assert 0.99 * held[0] <= way.memory.llm_weights <= 1.01 * held[1]
        parts = list(vars(way.memory).values())
        assert way.memory.total == pytest.approx(sum(parts))
        assert way.memory.total >= (size + outside) / gpus or way.hold == "spilled"
        if way.hold in ("copies", "shards"):
            assert way.memory.gradients + way.memory.optimizer == 12 * trained
        assert way.fits == (sum(parts) <= FULL * memory)
        assert way.parallel == (gpus if way.hold in ("copies", "shards") else 1)
    assert [(way.hold, way.quantization) for way in cost.ways if way.picked] == [PICKED[llm, machine]]
    assert all(fit.most_images for fit in cost.fits) and cost.parallel == (gpus if gpu == "h100" else 1)


@pytest.mark.parametrize(("llm", "machine"), CASES)
def test_hours_dollars_and_traffic(llm: str, machine: str) -> None:
    cost = large()[llm, machine]
    gpus, gpu = int(machine[0]), machine[2:]
    _, flops, link, price = STATED[gpu]
    stage = max(cost.stages, key=lambda s: s.captions)
    trained = next(s.trained for s in planned(llm).stages if s.number == stage.number)
    step = stage.flops_per_caption * BATCH / (flops * 0.35)
    steps = sum(s.captions for s in cost.stages) / BATCH
    positions = BATCH * (4 + 9 + 32)  # 32 soft prompts and 13 tokens, in rows with little padding
    for way in (way for way in cost.ways if way.fits):
        gradients = 2 * 4 * trained * (gpus - 1) / gpus
        if way.hold == "copies":
            assert way.gpu_bytes == pytest.approx(gradients)
        if way.hold == "shards":
            (fit,) = [f for f in cost.fits if f.stage == stage.number]
            passes = math.ceil(math.ceil(BATCH / gpus) / fit.most_images)
            gathered = passes * 2 * 2 * weights_in_blocks(llm) * (gpus - 1) / gpus
            assert way.gpu_bytes == pytest.approx(gathered + gradients, rel=0.01)
        if way.hold in ("spread", "spilled"):
            assert way.gpu_bytes == pytest.approx(2 * (gpus - 1) * positions * 2 * LLMS[llm][1], rel=0.03)
        passing = way.gpu_bytes / (link * LINK_SHARE) + way.host_bytes / (chips()[gpu].host_gbs * 1e9 * LINK_SHARE)
        assert way.traffic_seconds == pytest.approx(passing)
        if way.checkpointing:  # the LLM's forward pass once more
            continue
        work = step / way.parallel
        assert way.seconds == pytest.approx(max(work, passing) if way.hold == "shards" else work + passing)
        assert way.hours == pytest.approx(steps * way.seconds / 3600, rel=0.03)  # stage 1 is a little shorter
        assert way.usd == pytest.approx(way.hours * gpus * price)
    assert cost.usd == pytest.approx(sum(s.gpu_hours for s in cost.parts) / cost.parallel * gpus * price)


def test_a_slow_link_makes_shards_dearer_than_fewer_bits_do() -> None:
    device = with_link(chip("h100", chips()), 5.0)
    made = planned("llama-2-70b")
    cost = Estimator(made, REGISTRY, device, assumptions_for(made, device, gpus=8)).cost()
    (shards,) = [way for way in cost.ways if way.hold == "shards"]
    (fast,) = [way for way in large()["llama-2-70b", "8xh100"].ways if way.hold == "shards"]
    assert shards.seconds == shards.traffic_seconds > 10 * fast.seconds and shards.gpu_bytes == fast.gpu_bytes
    (picked,) = [way for way in cost.ways if way.picked]
    assert (picked.hold, picked.quantization) == ("spread", "none")  # unquantised, and faster than that


@pytest.mark.parametrize(("gpus", "memory"), [(2, 20e9), (4, 10e9), (3, 8e9)])
def test_gpus_are_filled_as_transformers_fills_them(gpus: int, memory: float) -> None:
    from transformers import AutoConfig
    from transformers.integrations.accelerate import _get_device_map, compute_module_sizes

    from vpgtrans_core.llm.empty import empty_model

    shape = planned("vicuna-13b-v1.1").target.shape
    room = {n: int(memory - (4e9 if n == 0 else 0)) for n in range(gpus)}
    sizes = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
    model = empty_model(AutoConfig.for_model("llama", **sizes, vocab_size=32000, tie_word_embeddings=False))
    model = model.to(torch.bfloat16)
    mapped = _get_device_map(model, "auto", room, None)
    bytes_of, _ = compute_module_sizes(model)
    theirs = [sum(bytes_of[part] for part, device in mapped.items() if device == n) for n in room]
    rest = sum(bytes_of[part] for part, device in mapped.items() if device == "disk")
    weights = weights_of(shape, 2)
    assert weights.total == pytest.approx(bytes_of[""], rel=0.001)
    loads, ours = spread(weights, [float(size) for size in room.values()])
    assert [load.weights for load in loads] == pytest.approx(theirs, abs=1.01 * weights.block)
    assert ours == pytest.approx(rest, abs=1.01 * weights.block * gpus) and (ours > 0) == (rest > 0)
    assert sum(load.share for load in loads) * weights.layers == pytest.approx(
        weights.layers - round(max(0.0, ours - weights.last) / weights.block)
    )


def test_a_given_way_is_the_only_one() -> None:
    assert [way.quantization for way in cost_of("4090", quantization="8bit").ways] == ["8bit"]
    (way,) = cost_of("4090", target="llama-2-70b", place="auto:cpu").ways
    assert (way.hold, way.picked, way.checkpointing) == ("spilled", True, True)
    assert way.host.total > 100e9


def test_what_would_fit_does(capsys: pytest.CaptureFixture[str]) -> None:
    table = chips()
    found = would_fit(cost_of("4090", target="llama-2-70b").ways, table.values(), FULL)
    assert found is not None
    way, chip_ = found
    assert way.quantization == "4bit" and copies(cost_of(chip_.name, target="llama-2-70b").ways)[-1].picked
    smaller = [c.name for c in table.values() if c.memory_gb < chip_.memory_gb and c.name != "cpu"]
    assert smaller and not any(way.fits for name in smaller for way in copies(cost_of(name, target="llama-2-70b").ways))
    text, _ = vpgt(["plan", "--from", "opt-2.7b", "--to", "llama-2-70b", "--offline", "--gpu", "4090"], capsys)
    assert f"--quantization 4bit would fit on {chip_.title} (--gpu {chip_.name}) or larger" in text
    assert "picked: spread over GPUs and main memory: vpgt transfer ... --place auto:cpu" in text
    assert would_fit([], table.values(), FULL) is None and would_fit(found[:1], [], FULL) is None


def copies(ways: tuple[Way, ...]) -> list[Way]:
    return [way for way in ways if way.hold == "copies"]


def test_the_picked_way_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = "plan --from opt-2.7b --to opt-66b --offline --gpu h100 --gpus 8 --link 300"
    text, _ = vpgt(command.split(), capsys)
    start = "picked: in shards: torchrun --standalone --nproc-per-node 8 -m vpgtrans_core.cli.main transfer ... --shard"
    assert start in text and "0.7 of 300 GB/s between GPUs" in text and "GB ON ONE H100" in text

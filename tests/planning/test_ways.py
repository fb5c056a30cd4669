"""Which way to hold a large LLM fits a GPU: the arithmetic is done again here, from the models' published sizes."""

import pytest

from tests.planning.test_cost import cost_of, vpgt
from vpgtrans_core.planning.cost.chips import chips
from vpgtrans_core.planning.cost.estimate import FULL
from vpgtrans_core.planning.cost.ways import would_fit

LLMS = {"llama-2-70b": (80, 8192, 28672, 8192 // 8, 32000), "opt-66b": (64, 9216, 36864, 9216, 50272)}
"""Layers, width, width of the MLP, width of keys and values, vocabulary."""
PICKED = {
    ("llama-2-70b", "h100"): "8bit", ("llama-2-70b", "a100-40"): None, ("llama-2-70b", "4090"): None,
    ("opt-66b", "h100"): "8bit", ("opt-66b", "a100-40"): None, ("opt-66b", "4090"): None,
}  # fmt: skip


def weights_in_blocks(llm: str) -> float:
    layers, width, mlp, keys, _ = LLMS[llm]
    return layers * (2 * width * width + 2 * width * keys + (3 if llm.startswith("llama") else 2) * width * mlp)


@pytest.mark.parametrize(("llm", "gpu"), PICKED)
def test_the_table(llm: str, gpu: str) -> None:
    cost = cost_of(gpu, target=llm)
    blocks, embeddings = weights_in_blocks(llm), LLMS[llm][1] * LLMS[llm][4]
    tables = 2 if llm.startswith("llama") else 1  # OPT's head is its embedding table
    room = FULL * chips()[gpu].memory_gb * 1e9
    for way, each in zip(cost.ways, (2, 1, 0.53), strict=True):
        assert way.memory.llm_weights == pytest.approx(each * blocks + 2 * tables * embeddings, rel=0.01)
        parts = [value for name, value in vars(way.memory).items()]
        assert way.memory.total == pytest.approx(sum(parts))
        assert way.memory.gradients + way.memory.optimizer == 12 * max(s.trained for s in trained(llm))
        assert way.fits == (sum(parts) <= room)
    (picked,) = [way.quantization for way in cost.ways if way.picked] or [None]
    assert picked == PICKED[llm, gpu]
    assert all(fit.most_images for fit in cost.fits) == (picked is not None)
    if picked:
        assert picked in {fit.quantization for fit in cost.fits}  # the memory table's own choice


def trained(llm: str) -> tuple:
    from tests.planning.test_cost import REGISTRY
    from vpgtrans_core.planning.plan import plan
    from vpgtrans_core.settings import Settings

    settings = Settings(source="opt-2.7b", target=llm, offline=True)
    return plan(settings, registry=REGISTRY, downloads=False).stages


def test_a_given_quantisation_is_the_only_way() -> None:
    assert [way.quantization for way in cost_of("4090", quantization="8bit").ways] == ["8bit"]


def test_what_would_fit_does(capsys: pytest.CaptureFixture[str]) -> None:
    table = chips()
    found = would_fit(cost_of("4090", target="llama-2-70b").ways, table.values(), FULL)
    assert found is not None
    way, chip = found
    assert way.quantization == "4bit" and any(w.picked for w in cost_of(chip.name, target="llama-2-70b").ways)
    smaller = [c.name for c in table.values() if c.memory_gb < chip.memory_gb and c.name != "cpu"]
    assert smaller and not any(w.fits for name in smaller for w in cost_of(name, target="llama-2-70b").ways)
    command = "plan --from opt-2.7b --to llama-2-70b --offline --gpus 8 --gpu 4090"
    text, _ = vpgt(command.split(), capsys)
    assert f"nothing fits; 4 bits (--quantization 4bit) would on {chip.title} (--gpu {chip.name})" in text
    assert would_fit(found[:1], [], FULL) is None

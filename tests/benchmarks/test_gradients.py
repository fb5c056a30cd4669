"""Every lever leaves the gradients of the plain step: for each family, in each stage."""

import copy
from typing import Any

import pytest
import torch
from plain import plain_step
from shapes import SHAPES, build_model
from steps import Bench, _memory_and_work
from torch.nn import functional
from variants import VARIANTS, Variant

from tests.benchmarks.compare import difference, plain_of
from vpgtrans_core.llm.text import Text
from vpgtrans_core.vlm.model import VLModel

EXACT = [v for v in VARIANTS if not v.half and v.name != "plain"]
FAMILIES = ("opt", "llama", "t5")


@pytest.fixture(scope="module", params=(*FAMILIES, "llava"))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(f"tiny-{request.param}", torch.device("cpu"), images=3)


@pytest.mark.parametrize("variant", EXACT, ids=lambda v: f"{v.stage} {v.name}")
def test_a_lever_leaves_the_plain_gradients(bench: Bench, variant: Variant) -> None:
    wanted = bench.gradients(plain_of(variant))
    found = bench.gradients(variant)
    assert difference(found, wanted) < 1e-4
    assert bench.step(variant)() == pytest.approx(bench.step(plain_of(variant))(), rel=1e-5)
    trained = {name.split(".")[0] for name in found}
    assert trained == ({"projector"} if variant.stage == 1 else {"projector", "vpg"})


@pytest.mark.parametrize("stage", [1, 2])
def test_micro_batches_leave_the_plain_gradients(bench: Bench, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    variant = next(v for v in VARIANTS if v.stage == stage and v.llm == "tree" and v.vpg == "image")
    wanted = bench.gradients(plain_of(variant))
    monkeypatch.setattr(bench, "micro_positions", 1)  # an image each
    assert difference(bench.gradients(variant), wanted) < 1e-4


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.half], ids=lambda v: f"{v.stage} {v.name}")
def test_bf16_leaves_nearly_the_plain_gradients(bench: Bench, variant: Variant) -> None:
    wanted = bench.gradients(plain_of(variant))["projector.weight"].flatten()
    found = bench.gradients(variant)["projector.weight"].flatten()
    assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.99


def double_loss(logits: torch.Tensor, labels: torch.Tensor, **others: object) -> torch.Tensor:
    """transformers' loss of causal LMs, which itself would round the logits to fp32."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("family", FAMILIES)
def test_in_double_precision_the_projectors_gradient_is_the_plain_one(family: str) -> None:
    """Where the kinks of ReLUs would make fp32 miss (OPT). The VPG's output is rounded to fp32 by contract, in all
    variants alike; LLaMA's rotations are computed in fp32 by transformers, for each layout of rows anew."""
    tolerance = 1e-6 if family == "llama" else 1e-8
    bench = Bench(f"tiny-{family}", torch.device("cpu"), images=3, halves=False)
    model = bench.models[False]
    model.double()
    model.llm.model.double()
    model.llm.model.loss_function = double_loss
    bench.work.pixels.data = bench.work.pixels.double()
    features = model.vpg.features(bench.work.pixels)
    bench.frozen[False] = features, model.vpg.prompts(features)
    for variant in EXACT:
        wanted = bench.gradients(plain_of(variant))
        assert wanted["projector.weight"].dtype == torch.float64
        found = bench.gradients(variant)
        names = ("projector.weight", "projector.bias")
        assert difference({n: found[n] for n in names}, {n: wanted[n] for n in names}) < tolerance, variant.name


@pytest.mark.parametrize("stage", [1, 2])
def test_a_plain_step_that_does_not_fit_is_done_in_parts_and_its_work_counted_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    plain = next(v for v in VARIANTS if v.stage == stage and v.name == "plain")
    wanted, asked = bench.gradients(plain), []
    step = bench.step(plain)
    (_, whole), loss = _memory_and_work(bench, plain, step, bench.device), step()

    def small(model: VLModel, pixels: torch.Tensor, *given: Any, parts: int, **more: Any) -> float:
        asked.append(parts)
        done = plain_step(model, pixels, *given, parts=parts, **more)  # out of memory at the very end
        if parts == 1:
            raise torch.OutOfMemoryError
        return done

    monkeypatch.setattr("steps.plain_step", small)
    step = bench.step(plain)
    assert step() == pytest.approx(loss, rel=1e-5) and asked == [1, 2]
    found = {n: p.grad.clone() for n, p in bench.models[False].trained().items() if p.grad is not None}
    assert difference(found, wanted) < 1e-4
    assert _memory_and_work(bench, plain, step, bench.device)[1] == pytest.approx(whole, rel=0.15)  # less padding


def test_the_comparison_sees_a_wrong_caption(bench: Bench) -> None:
    """The control: one token of one caption changes the gradient by more than the tolerance."""

    plain = VARIANTS[0]
    wanted = bench.gradients(plain)
    before = bench.work.texts[0][0]
    bench.work.texts[0][0] = Text.of(before.context, (*before.target[:-2], 5, before.target[-1]))
    try:
        assert difference(bench.gradients(plain), wanted) > 1e-3
    finally:
        bench.work.texts[0][0] = before


def test_captions_have_the_length_of_real_ones() -> None:
    from shapes import make_work

    model = build_model("tiny-opt", torch.float32, torch.device("cpu"))
    lengths = [len(t.target) for image in make_work(model, 200).texts for t in image]
    assert 12.5 < sum(lengths) / len(lengths) < 13.5
    assert {"opt-2.7b", "opt-6.7b", "llama-7b", "flan-t5-xl"} <= SHAPES.keys()


def test_the_vit_is_compiled_and_what_is_trained_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    vpg = copy.deepcopy(bench.models[False].vpg)
    told: list[str] = []
    names = {id(module): name for name, module in vpg.named_modules()}
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: told.append(names[id(self)]))
    VLModel(vpg, bench.models[False].projector, bench.models[False].llm).compile_vit()
    assert len(told) == 2 and all("encoder.layers." in name and "qformer" not in name for name in told)

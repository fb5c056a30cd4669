"""Optimisers, schedules, gradients, early stopping, and the optimiser's state in a checkpoint."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.train.optim import (
    EarlyStop,
    adamw,
    clip_gradients,
    constant,
    linear_warmup_cosine,
    load_optimizer_tensors,
    muon,
    muon_rate,
    muon_schedule,
    optimizer_tensors,
    set_rates,
)


def projector(seed: int = 0, rows: int = 24, columns: int = 16) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, rows)


def give_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def newton_schulz(g: torch.Tensor) -> torch.Tensor:
    """Five steps of the quintic iteration in fp64: what an orthogonalised direction means to Muon."""
    x = g.double() / g.double().norm()
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def test_adamw_decays_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = adamw(model.named_parameters(), lr=1e-3, weight_decay=0.05)
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    assert decay == {"0.weight": 0.05, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


def test_adamw_leaves_frozen_parameters_out() -> None:
    layer = nn.Linear(4, 4)
    layer.bias.requires_grad_(False)
    assert [n for g in adamw(layer.named_parameters(), 1.0).param_groups for n in g["param_names"]] == ["weight"]


@pytest.mark.parametrize(("rows", "columns"), [(24, 16), (16, 24), (16, 16)])
def test_muon_step_is_its_formula(rows: int, columns: int) -> None:
    layer = projector(rows=rows, columns=columns)
    before = layer.weight.detach().double().clone()
    optimizer = muon(layer, lr=1e-2, step=0.1)
    give_gradients(layer, 1)
    grad = layer.weight.grad.clone()
    optimizer.step()
    moved = before - layer.weight.detach().double()
    # The first direction is the gradient itself up to a factor, momentum or not.
    expected = 0.1 * before.norm() / math.sqrt(min(rows, columns)) * newton_schulz(grad)
    assert torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.999
    assert float(moved.norm() / expected.norm()) == pytest.approx(1, abs=0.02)  # torch iterates in bf16
    assert 0.07 < float(moved.norm() / before.norm()) < 0.12  # singular values end in 0.7-1.2, not at 1


def test_muon_is_scale_free() -> None:
    small, large = projector(), projector()
    with torch.no_grad():
        large.weight.mul_(64)
    for layer in (small, large):
        optimizer = muon(layer, lr=1e-2)
        give_gradients(layer, 1)
        optimizer.step()
    torch.testing.assert_close(large.weight, small.weight * 64)


def test_muon_rate_counts_torchs_own_factor() -> None:
    assert muon_rate(torch.ones(16, 4), 0.2) == pytest.approx(0.2 * 8 / 2 / 2)
    assert muon_rate(torch.ones(4, 16), 0.2) == pytest.approx(0.2 * 8 / 2)


def test_rates_reach_both_parts() -> None:
    layer = projector()
    optimizer = muon(layer, lr=1e-2)
    set_rates(optimizer, 0.0)
    before = [p.detach().clone() for p in layer.parameters()]
    give_gradients(layer, 1)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    set_rates(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [g["peak_lr"] * 0.5 for g in optimizer.param_groups]


def test_grad_scaler_unscales_both_parts() -> None:
    layer = projector()
    optimizer = muon(layer, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(layer(torch.ones(2, 16)).sum()).backward()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(layer.bias.grad, torch.full((24,), 2.0))
    before = layer.weight.detach().clone()
    scaler.step(optimizer)
    assert not torch.equal(before, layer.weight)


def test_grad_scaler_skips_infinite_gradients() -> None:
    layer = projector()
    optimizer = muon(layer, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(layer(torch.ones(2, 16)).sum()).backward()
    layer.weight.grad[0, 0] = math.inf
    before = layer.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(before, layer.weight)
    assert scaler.get_scale() == 4.0


def test_accelerate_prepares_it() -> None:
    from accelerate import Accelerator

    layer = projector()
    optimizer = Accelerator(cpu=True).prepare(muon(layer, lr=1e-2))
    give_gradients(layer, 1)
    optimizer.step()
    tensors, _ = optimizer_tensors(optimizer)
    assert set(tensors) >= {"projector.weight/momentum_buffer", "projector.bias/exp_avg"}


def test_adamw_trains_what_stands_beside_muon_s_projector() -> None:
    """... as it would alone, with the paper's groups."""
    beside, alone = (nn.Linear(4, 3) for _ in range(2))
    alone.load_state_dict(beside.state_dict())
    layer = projector()
    own, other = (list(one.named_parameters()) for one in (beside, alone))
    together, reference = muon(layer, lr=1e-2, others=own, weight_decay=0.1), adamw(other, 1e-2, 0.1)
    for step in range(3):
        for optimizer in (together, reference):
            set_rates(optimizer, muon_schedule(step, 3))
        for one in (layer, beside, alone):
            give_gradients(one, step)
        together.step()
        reference.step()
    assert torch.equal(beside.weight, alone.weight) and torch.equal(beside.bias, alone.bias)
    assert [group["weight_decay"] for group in together.param_groups] == [0.0, 0.1, 0.0]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_resume_is_bit_identical(kind: str) -> None:
    def start() -> tuple[nn.Linear, torch.optim.Optimizer]:
        layer = projector()
        named = [(f"projector.{n}", p) for n, p in layer.named_parameters()]
        return layer, muon(layer, 1e-2) if kind == "muon" else adamw(named, 1e-2)

    def train(layer: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            set_rates(optimizer, muon_schedule(step, 12))
            give_gradients(layer, step)
            optimizer.step()

    straight, optimizer = start()
    train(straight, optimizer, range(12))

    first, optimizer = start()
    train(first, optimizer, range(7))
    tensors, numbers = optimizer_tensors(optimizer)
    tensors, numbers = load(save(tensors)), json.loads(json.dumps(numbers))
    second, optimizer = start()
    second.load_state_dict(first.state_dict())
    if kind == "muon":  # built anew on weights that have moved: the rate must come from the checkpoint
        optimizer = muon(second, 1e-2)
    load_optimizer_tensors(optimizer, tensors, numbers)
    train(second, optimizer, range(7, 12))
    assert torch.equal(straight.weight, second.weight)
    assert torch.equal(straight.bias, second.bias)


def test_state_of_other_parameters_is_refused() -> None:
    layer = projector()
    tensors, numbers = optimizer_tensors(muon(layer, 1e-2))
    with pytest.raises(ModelError, match="other parameters"):
        load_optimizer_tensors(muon(layer, 1e-2, name="other"), tensors, numbers)
    with pytest.raises(ModelError, match="unknown parameter 'ghost'"):
        load_optimizer_tensors(muon(layer, 1e-2), {**tensors, "ghost/exp_avg": torch.ones(1)}, numbers)


def test_the_groups_keep_their_own_rates_but_the_measured_one() -> None:
    """Rates follow from the settings, which are compared; only the length of the weight at the start is not in them."""
    layer = projector()
    tensors, numbers = optimizer_tensors(muon(layer, 1e-2))
    measured = numbers["groups"][0]["peak_lr"]
    with torch.no_grad():
        layer.weight.mul_(3.0)
    later = muon(layer, 5e-3)
    numbers["groups"][1] |= {"peak_lr": 7.0, "eps": math.nan}
    load_optimizer_tensors(later, tensors, numbers)
    assert [group["peak_lr"] for group in later.param_groups] == [measured, 5e-3] and later.param_groups[1][
        "eps"
    ] == 1e-8


def test_schedule_values() -> None:
    def rate(step: int) -> float:
        return linear_warmup_cosine(step, total=110, peak=1e-4, minimum=1e-5, warmup_steps=10, warmup_lr=1e-6)

    assert rate(0) == pytest.approx(1e-6)
    assert rate(5) == pytest.approx((1e-6 + 1e-4) / 2)
    assert rate(10) == pytest.approx(1e-4)
    assert rate(60) == pytest.approx((1e-4 + 1e-5) / 2)
    assert rate(110) == pytest.approx(1e-5)
    assert rate(500) == pytest.approx(1e-5)
    assert linear_warmup_cosine(0, 100, 1e-4, 5e-5) == 1e-4  # the 7 B runs: no warm-up steps
    assert constant(7) == 1.0


def test_muon_schedule_values() -> None:
    assert muon_schedule(0, 23) == 1.0
    assert muon_schedule(23, 23) == pytest.approx(0.1)
    assert all(muon_schedule(s, 23) > muon_schedule(s + 1, 23) for s in range(23))
    assert muon_schedule(0, 1) > 0


def test_clip_gradients() -> None:
    layer = projector()
    give_gradients(layer, 1)
    norm = clip_gradients(layer.parameters(), 0)
    assert norm == pytest.approx(math.sqrt(sum(float(p.grad.square().sum()) for p in layer.parameters())))
    assert clip_gradients(layer.parameters(), 1.0) == pytest.approx(norm)
    assert clip_gradients(layer.parameters(), 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_reported_and_left(bad: float) -> None:
    layer = projector()
    give_gradients(layer, 1)
    layer.bias.grad[3] = bad
    weight = layer.weight.grad.clone()
    assert not math.isfinite(clip_gradients(layer.parameters(), 1.0))
    assert torch.equal(layer.weight.grad, weight)


def test_early_stop() -> None:
    stop = EarlyStop(patience=2, least=0.01)
    assert [stop.update(x) for x in (2.0, 1.0, 0.995, 0.985, 0.98, math.nan)] == [
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    assert EarlyStop(**json.loads(json.dumps(stop.state()))) == stop


def test_early_stop_does_not_creep() -> None:
    """Falls below the bound add up: a slow but real fall is one."""
    stop = EarlyStop(patience=3, least=0.01)
    assert not any(stop.update(1.0 - 0.006 * i) for i in range(20))

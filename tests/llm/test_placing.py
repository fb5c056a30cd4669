"""An LLM on two devices: torch's fake tensors have devices and shapes without memory, and an operation that mixes two
devices fails as on GPUs."""

from __future__ import annotations

from pathlib import Path

import accelerate.big_modeling
import pytest
import torch
from accelerate import dispatch_model
from torch._subclasses.fake_tensor import FakeTensorMode

from vpgtrans_core.cards import load
from vpgtrans_core.llm.loading import load_model
from vpgtrans_core.llm.placing import Placement, device_of, is_offloaded, shares, state_of
from vpgtrans_core.llm.text import Text
from vpgtrans_core.machine import Machine
from vpgtrans_core.registry import default_registry
from vpgtrans_core.testing.tiny_models import save_tiny_llm, tiny_config, tiny_tokenizer

FIRST, SECOND = torch.device("cpu", 0), torch.device("cpu", 1)
TYPES = ["opt", "llama", "t5"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    # accelerate tells tied weights by their addresses, and fake tensors have none; here the tied are on one device.
    monkeypatch.setattr(accelerate.big_modeling, "find_tied_parameters", lambda model: [])
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(parameter: torch.Tensor, device: str) -> torch.Tensor:
    if parameter.device == torch.device(device):
        return parameter
    return torch.nn.Parameter(parameter.detach().to(device))


def placed(model_type: str, tied: bool):
    """An adapter with its second half on the second GPU."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    words = tiny_tokenizer(model_type == "t5")
    config = tiny_config(model_type, words, {"tie_word_embeddings": tied, "max_position_embeddings": 64})
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device(FIRST):
        model = auto.from_config(config)
    head = "cpu:0" if model.get_output_embeddings().weight is model.get_input_embeddings().weight else "cpu:1"
    where = {}
    for name, module in model.named_modules():
        if not list(module.children()) or type(module).__name__ in model._no_split_modules:
            second = ".1." in f".{name}." or "norm" in name.split(".")[-1] or name == "lm_head"
            where[name] = (head if name == "lm_head" else "cpu:1") if second else "cpu:0"
    outer = [n for n in where if not any(n.startswith(f"{other}.") for other in where)]
    model.hf_device_map = {name: where[name] for name in outer}
    for name, device in model.hf_device_map.items():
        for part in model.get_submodule(name).modules():  # accelerate's own moving does not know fake tensors
            part._parameters |= {n: moved(p, device) for n, p in part._parameters.items() if p is not None}
            part._buffers |= {n: b.to(device) for n, b in part._buffers.items() if b is not None}
    dispatch_model(model, device_map=model.hf_device_map, main_device="cpu:0")
    family = next(f for f in default_registry().llm_families() if model_type in f.model_types)
    return load(family.adapter)(model, words, family)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", TYPES)
def test_everything_meets_on_one_device(fake: FakeTensorMode, model_type: str, tied: bool, recomputed: bool) -> None:
    with fake:
        llm = placed(model_type, tied)
        if recomputed:
            llm.checkpoint_activations()
    assert shares(llm.model) == {FIRST: 0.5, SECOND: 0.5}
    texts = [[Text.of((5,), (6, 7, 2)), Text.of((5,), (6, 8, 2))], [Text.of((), (9, 2))]]
    rows = llm.layout(texts, 3)
    with fake:
        prompts = torch.zeros(2, 3, llm.embedding_size, device=FIRST, requires_grad=True)
        loss = llm.loss(prompts, rows.to(FIRST))
        loss.backward()
    assert loss.device == FIRST and prompts.grad is not None and prompts.grad.device == FIRST


def test_a_mixture_is_noticed(fake: FakeTensorMode) -> None:
    with fake, pytest.raises(RuntimeError, match="at least two devices"):
        torch.zeros(2, device=FIRST) + torch.zeros(2, device=SECOND)


def test_the_fullest_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = torch.device("cuda", 0), torch.device("cuda", 1)
    free = {one: 10e9, other: 40e9}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free[device]), 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    machine = Machine(None, one, torch.bfloat16, None)  # type: ignore[arg-type]
    both = machine.positions_at_once(32, 4096, {one: 0.5, other: 0.5})
    assert both == machine.positions_at_once(16, 4096) == int(0.7 * 10e9 / (48 * 16 * 4096))
    assert machine.positions_at_once(32, 4096, {one: 0.1, other: 0.9}) > both
    most = machine.positions_at_once(32, 4096, {one: 1.0}, recomputes=True)
    assert most == int(0.7 * 10e9 / (4096 * (2 * 32 + 48)))


def test_where_a_part_computes(fake: FakeTensorMode) -> None:
    with fake:
        llm = placed("llama", tied=False)
        plain = torch.nn.Linear(2, 2, device=FIRST)
    parts = [device_of(block) for block in llm.model.model.layers]
    assert parts == [FIRST, SECOND] and device_of(llm.model.lm_head) == SECOND
    assert device_of(plain) == FIRST


@pytest.mark.parametrize("model_type", TYPES)
def test_weights_that_are_kept_elsewhere_stay_there(model_type: str, tmp_path: Path) -> None:
    """After forward and backward; and the gradient is that of the LLM in one place."""
    folder = save_tiny_llm(tmp_path / "llm", model_type, encoder_decoder=model_type == "t5")
    family = next(f for f in default_registry().llm_families() if model_type in f.model_types)
    adapter = load(family.adapter)
    whole = adapter.load(folder, family=family)
    size = sum(p.numel() for p in whole.model.parameters()) * 4
    placement = Placement({"cpu": int(0.75 * size), "disk": size}, spills=True)
    model = load_model(folder, adapter.auto_class(), dtype=torch.float32, device="cpu", placement=placement)
    llm = adapter.load(folder, family=family, model=model)
    llm.checkpoint_activations()
    away = {name for name, p in model.named_parameters() if p.is_meta}
    assert is_offloaded(model) and any("1." in name for name in away)
    texts = [[Text.of((5,), (6, 7, 2)), Text.of((5,), (6, 8, 2))], [Text.of((), (9, 2))]]
    gradients = []
    for each in (whole, llm):
        prompts = torch.linspace(-1, 1, 6 * each.embedding_size).view(2, 3, -1).requires_grad_()
        each.loss(prompts, each.layout(texts, 3)).backward()
        gradients.append(prompts.grad)
    assert torch.equal(*gradients)
    assert {name for name, p in model.named_parameters() if p.is_meta} == away
    state = state_of(model)
    assert all(torch.equal(state[name], value) for name, value in whole.model.state_dict().items())

"""A transfer to a quantised LLM: it trains, and what it writes is the LLM as it was."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

import vpgtrans_core
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm import placing
from vpgtrans_core.llm.float8 import Float8Linear
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.recipes.holding import Place
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.assemble import load_llm
from vpgtrans_core.weights import Weights


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="not installed")
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.parametrize("target", ["opt-wide", "llama", "t5"])
def test_the_projector_trains_and_the_llm_is_written_to_the_bit(world: Path, tmp_path: Path, target: str, kind: str):
    result = vpgtrans_core.transfer(
        source=str(world / "source"), target=str(world / target), data=(str(world / "data" / "captions.json"),),
        out=str(tmp_path / "out"), quantization=kind, batch_size=12, workers=0, val_images=4, device="cpu",
        warmup_steps=1, stage1_steps=12, stage2_steps=3, augment=False,
    )  # fmt: skip
    stage = result.record["stages"]["1"]
    assert stage["held_out_loss"] < stage["first_held_out_loss"]
    assert result.record["settings"]["quantization"] == kind
    written, given = Weights(result.folder), Weights(world / target)
    folded = ("embed_tokens", "lm_head", "project_in", "project_out") if target == "opt-wide" else ()
    names = [name for name in given if not any(part in name for part in folded)]
    compared = [name for name in names if f"language_model.{name}" in written]
    assert len(compared) > 0.8 * len(names)
    for name in compared:
        assert torch.equal(written.read(f"language_model.{name}")[: given.shape(name)[0]], given.read(name)), name
    assert {written.read(f"language_projection.{part}").dtype for part in ("weight", "bias")} == {torch.float32}
    assert not any("quant" in name or "SCB" in name or "absmax" in name for name in written)
    assert "quantization_config" not in (result.folder / "config.json").read_text()
    said = vpgtrans_core.caption(str(result.folder), [str(next((world / "data" / "images").glob("*.png")))])
    assert len(list(said)) == 1


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="not installed")
@pytest.mark.parametrize("place", [None, "auto"])
@pytest.mark.parametrize("inside", [True, False])
def test_an_llm_is_quantised_wherever_it_is_read_from(
    world: Path, monkeypatch: pytest.MonkeyPatch, place: Place | None, inside: bool
) -> None:
    """Out of a VL-LLM's folder, and spread by --place."""
    import bitsandbytes

    monkeypatch.setattr(placing, "room", lambda *given: {"cpu": 1 << 30})
    settings = Settings(quantization="8bit", device="cpu", place=place)
    registry = default_registry()
    found = resolve_source(str(world / "source"), registry, settings).llm
    assert found is not None and found.prefix
    if not inside:
        found = resolve_target(str(world / "llama"), registry, settings)
    llm = load_llm(found, choose_machine(settings, "bfloat16"), settings)
    assert any(isinstance(module, bitsandbytes.nn.Linear8bitLt) for module in llm.model.modules())
    assert len(llm.generate(torch.zeros(1, 2, llm.embedding_size))) == 1


def test_float8_is_read_block_by_block_and_written_as_it_was(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, which computes the same numbers, the refusal set aside."""
    monkeypatch.setattr("vpgtrans_core.machine.why_not_float8", lambda device: None)
    settings, registry = Settings(quantization="float8"), default_registry()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = choose_machine(settings, "bfloat16")
    found = resolve_target(str(world / "llama"), registry, settings)
    llm = load_llm(found, machine, settings)
    assert any(isinstance(module, Float8Linear) for module in llm.model.modules()) and llm.whole is not None
    written, given = llm.whole().state_dict(), Weights(world / "llama")
    assert set(given) <= set(written) and all(torch.equal(written[name], given.read(name)) for name in given)
    with pytest.raises(ModelError, match="LoRA adapter, which cannot be merged into weights in float8"):
        load_llm(dataclasses.replace(found, adapter=world), machine, settings)

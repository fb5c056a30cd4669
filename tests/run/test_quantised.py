"""A transfer to a quantised LLM: it trains, and what it writes is the LLM as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import vpgtrans_core
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

"""An LLM that predicts captions at chance (delta weights, random weights) is named at the start and at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

import vpgtrans_core
from tests.run.test_folder import Told
from tests.run.test_transfer import settings
from vpgtrans_core.sight.verdict import AT_CHANCE


def test_delta_weights_are_named(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "llama", tmp_path / "llm")
    file = tmp_path / "llm" / "model.safetensors"
    save_file({name: 1e-4 * value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    told = Told()
    values = settings(world, str(tmp_path / "llm"), tmp_path / "out") | {"target": str(tmp_path / "llm")}
    result = vpgtrans_core.transfer(**values, reporter=told)
    assert any("predicts the captions at chance" in text and "delta weights" in text for text in told.warnings)
    assert all(stage["llm_at_chance"] for stage in result.record["stages"].values())
    verdict = result.record["verdict"]
    assert not verdict["problems"] or verdict["advice"] == AT_CHANCE
    assert not any("train longer" in text for text in told.warnings)


def test_an_llm_that_knows_the_captions_is_not(world: Path, tmp_path: Path) -> None:
    told = Told()
    vpgtrans_core.transfer(
        source="opt-mini-s", target="llama-mini", out=str(tmp_path / "out"), limit=60, val_images=8, batch_size=20,
        stage1_steps=1, stage2_steps=1, reporter=told,
    )  # fmt: skip
    assert not any("at chance" in text for text in told.warnings)

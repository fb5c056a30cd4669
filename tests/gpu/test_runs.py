"""Whole transfers on a GPU: every precision, the cache, a resumed run, a quantised LLM."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vpgtrans_core
from vpgtrans_core.weights import Weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def values(world: Path, target: str, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": str(world / "source"), "target": str(world / target), "data": (str(world / "data/captions.json"),),
        "out": str(out), "batch_size": 12, "workers": 0, "val_images": 4, "device": "cuda", "warmup_steps": 1,
        "stage1_steps": 12, "stage2_steps": 6, "augment": False, "early_stop": False, "cache_features": False, **more,
    }  # fmt: skip


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [m["loss"] for m in lines if "loss" in m]


def written_llm(result: Any, given: Weights) -> None:
    """Assert that the folder holds the LLM to the bit as it ran: as it was given, in the run's precision."""
    written = Weights(result.folder)
    names = [n for n in given if f"language_model.{n}" in written]
    assert len(names) > 0.5 * len(list(given))
    for name in names:
        found = written.read(f"language_model.{name}")[: given.shape(name)[0]]
        assert torch.equal(found, given.read(name).to(found.dtype)), name


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("target", ["opt", "llama", "t5"])
def test_every_precision_trains_and_leaves_the_llm(world: Path, tmp_path: Path, target: str, dtype: str) -> None:
    result = vpgtrans_core.transfer(**values(world, target, tmp_path / "out", dtype=dtype))
    stages = result.record["stages"]
    assert stages["2"]["held_out_loss"] < stages["1"]["first_held_out_loss"]
    assert result.record["machine"]["device"].startswith("cuda")
    assert stages["1"]["peak_memory_bytes"] > 0 and stages["1"]["bad_steps"] == 0
    written_llm(result, Weights(world / target))
    said = vpgtrans_core.caption(str(result.folder), [str(next((world / "data/images").glob("*.png")))])
    assert len(list(said)) == 1


def test_a_gpu_trains_as_a_cpu_does(world: Path, tmp_path: Path) -> None:
    for device in ("cuda", "cpu"):
        given = values(world, "llama", tmp_path / device, device=device, dtype="float32", stages=(1,), stage1_steps=3)
        code = f"import vpgtrans_core; vpgtrans_core.transfer(**{given!r})"  # a process has one device
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    # No more than three steps: TF32 and rounding grow.
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.01)


def test_a_second_run_takes_the_first_ones_cache(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpg_qformer.adapter import QFormerVPG

    keep = {"cache_features": True, "cache": str(tmp_path / "cache"), "workers": 2}
    first = vpgtrans_core.transfer(**values(world, "llama", tmp_path / "one", **keep))
    seen: list[int] = []
    features = QFormerVPG.features
    monkeypatch.setattr(QFormerVPG, "features", lambda self, x: (seen.append(len(x)), features(self, x))[1])
    again = vpgtrans_core.transfer(**values(world, "llama", tmp_path / "two", **keep))
    assert losses(again.folder) == pytest.approx(losses(first.folder), rel=0.02)
    assert not seen


def test_a_resumed_run_ends_where_the_other_did(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpgtrans_core.train import stage

    more: dict[str, Any] = {"checkpoint_steps": 3, "save": "vpg"}
    whole = vpgtrans_core.transfer(**values(world, "llama", tmp_path / "whole", **more))

    class Killed(BaseException):
        pass

    def killed(self: Any, *arguments: Any) -> Any:
        if self.plan.number == 2 and self.state.step == 4:
            raise Killed
        return train_step(self, *arguments)

    train_step = stage.StageRunner._train_step
    with monkeypatch.context() as patch:
        patch.setattr(stage.StageRunner, "_train_step", killed)
        with pytest.raises(Killed):
            vpgtrans_core.transfer(**values(world, "llama", tmp_path / "killed", **more))
    resumed = vpgtrans_core.transfer(out=str(tmp_path / "killed"), resume=True)
    assert losses(resumed.folder) == losses(whole.folder)
    assert (resumed.folder / "vpg.safetensors").read_bytes() == (whole.folder / "vpg.safetensors").read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.parametrize("target", ["opt", "llama", "t5"])
def test_a_quantised_llm_trains_and_is_written_as_it_was(world: Path, tmp_path: Path, target: str, kind: str) -> None:
    result = vpgtrans_core.transfer(**values(world, target, tmp_path / "out", quantization=kind))
    stages = result.record["stages"]
    assert stages["2"]["held_out_loss"] < stages["1"]["first_held_out_loss"]
    written_llm(result, Weights(world / target))


def test_a_compiled_run_has_the_losses_of_the_other(world: Path, tmp_path: Path) -> None:
    plain, compiled = (
        vpgtrans_core.transfer(**values(world, "llama", tmp_path / str(c), compile=c, dtype="float32"))
        for c in (False, True)
    )
    assert compiled.record["machine"]["compiled"] and not plain.record["machine"]["compiled"]
    assert losses(compiled.folder) == pytest.approx(losses(plain.folder), rel=0.05)


def test_the_miniature_learns_to_see(tmp_path: Path) -> None:
    result = vpgtrans_core.transfer(source="opt-mini-s", target="llama-mini", out=str(tmp_path / "out"))
    assert result.record["machine"]["device"].startswith("cuda")
    assert result.record["stages"]["2"]["held_out_loss"] < 1.0

"""Whole runs on tiny random models: what is trained, what is not, what is written, and what stops a run."""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import vpgtrans_core
from vpgtrans_core.errors import ConfigError, DataError, ModelError, VpgtError
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.folder import RunFolder
from vpgtrans_core.run.pipeline import Silent
from vpgtrans_core.run.run import Run
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import build
from vpgtrans_core.train.stage import StageRunner
from vpgtrans_core.train.step import Stepper
from vpgtrans_core.vlm.assemble import load_vpg
from vpgtrans_core.vlm.model import VLModel

TINY: dict[str, Any] = {
    "batch_size": 12, "workers": 0, "val_images": 4, "device": "cpu", "warmup_steps": 1, "stage1_steps": 3,
    "stage2_steps": 3, "augment": False,
}  # fmt: skip


def settings(world: Path, target: str, out: Path, **more: Any) -> dict[str, Any]:
    data = {"source": str(world / "source"), "target": str(world / target), "data": [str(world / "data/captions.json")]}
    return {**data, "out": str(out), **TINY, **more}


@dataclass(frozen=True)
class Made:
    """A finished run's model and folder."""

    model: VLModel
    folder: RunFolder


def run(world: Path, target: str, out: Path, **more: Any) -> Made:
    """Run a transfer and keep its parts to look at."""
    run = Run(run_spec(build(settings(world, target, out, **more)), default_registry()), Silent())
    try:
        model, data = run.train()
        run.finish(model, data)
    finally:
        run.folder.close()
    return Made(model, run.folder)


def llm_bits(made: Made) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.model.llm.model.state_dict().items()}


@pytest.mark.parametrize("target", ["opt", "opt-wide", "llama", "t5"])
def test_the_llm_keeps_its_bits_and_each_stage_trains_its_part(world: Path, tmp_path: Path, target: str) -> None:
    untouched = run(world, target, tmp_path / "none", stage1_steps=0, stage2_steps=0, save="vpg", cache_features=False)
    one = run(world, target, tmp_path / "one", stages=[1], save="vpg", cache_features=False)
    both = run(world, target, tmp_path / "both", save="vpg", cache_features=False)
    for made in (one, both):
        assert all(torch.equal(llm_bits(made)[n], v) for n, v in llm_bits(untouched).items())

    def changed(made: Made) -> set[str]:
        before = dict(untouched.model.named_parameters())
        return {n for n, p in made.model.named_parameters() if not torch.equal(p, before[n])}

    assert changed(one) == {"projector.weight", "projector.bias"}
    trained = {f"vpg.{name}" for name, _ in both.model.vpg.trained()} | changed(one)
    assert changed(both) <= trained
    assert {n for n in trained if "key.bias" not in n} <= changed(both)  # a key's bias has no gradient
    frozen = {n for n, _ in both.model.named_parameters()} - trained
    assert frozen and all(n.startswith("vpg.vision_model.") and "post_layernorm" not in n for n in frozen)


def test_the_record_and_the_metrics_say_what_happened(world: Path, tmp_path: Path) -> None:
    result = vpgtrans_core.transfer(**settings(world, "llama", tmp_path / "out"))
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == "done" and record["settings"]["seed"] == 0
    assert record["data"]["images"] == 20 and record["data"]["captions"] == 60
    assert record["source"]["sha256"] and record["target"]["model_type"] == "llama"
    assert {p["name"] for p in record["plugins"]} >= {"llm_opt", "llm_llama", "llm_t5", "vpg_qformer"}
    assert record["stages"]["1"]["steps"] == 3 and record["stages"]["2"]["peak_memory_bytes"] > 0
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in lines if "loss" in m] == [1, 2, 3, 1, 2, 3]
    assert all(math.isfinite(m["loss"]) for m in lines if "loss" in m)
    assert not (result.folder / "checkpoints").exists()
    assert (result.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out loss" in (result.folder / "README.md").read_text()
    assert not list(result.folder.glob("*.bin")) and not list(result.folder.glob("*.pt*"))


def test_training_lowers_the_loss(world: Path, tmp_path: Path) -> None:
    made = run(
        world, "llama", tmp_path, stage1_steps=20, stage2_steps=20, stage2_lr=1e-2, stage2_min_lr=1e-3, save="vpg"
    )
    stages = made.folder.record["stages"]
    assert stages["1"]["held_out_loss"] < stages["1"]["first_held_out_loss"] - 0.1
    # Of stage 2 the loss in training: four held-out pictures with drawn words do not tell what steps on others bring.
    losses = [line["loss"] for line in made.folder.metrics() if line["stage"] == 2 and "loss" in line]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.1


@pytest.mark.parametrize("method", ["scratch", "inherit", "linear"])
def test_the_baselines(world: Path, tmp_path: Path, method: str) -> None:
    if method == "scratch":
        with pytest.raises(ModelError, match="pre-trained VPG"):
            run(world, "llama", tmp_path, method=method)
        return
    made = run(world, "llama", tmp_path, method=method, save="vpg")
    assert list(made.folder.record["stages"]) == (["1"] if method == "linear" else ["2"])
    assert made.folder.record["start"] == {"start": "random"}


@pytest.mark.parametrize(
    "how", [{"start": "words"}, {"start": "converter"}, {"start": "converter", "converter": "sgd"}]
)
def test_every_start_is_recorded(world: Path, tmp_path: Path, how: dict[str, str]) -> None:
    made = run(world, "opt", tmp_path, stage1_steps=1, stages=[1], save="vpg", same_base=False, **how)
    assert made.folder.record["start"]["start"] == how["start"]


@pytest.mark.parametrize(
    "how", [{"start": "words"}, {"start": "converter"}, {"start": "converter", "converter": "sgd"}]
)
def test_a_target_whose_tokenizer_has_more_tokens_than_its_table(
    world: Path, tmp_path: Path, how: dict[str, str]
) -> None:
    shutil.copytree(world / "opt", tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")
    rows = json.loads((tmp_path / "more/config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<extra {number}>" for number in range(rows - len(tokenizer) + 3)])
    tokenizer.save_pretrained(tmp_path / "more")
    target = str(tmp_path / "more")
    more = run(world, target, tmp_path / "out", stage1_steps=1, stages=[1], save="vpg", **how)
    plain = run(world, "opt", tmp_path / "plain", stage1_steps=1, stages=[1], save="vpg", **how)
    assert torch.equal(more.model.projector.weight, plain.model.projector.weight)


@pytest.fixture
def half_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that autocasts to fp16, with a loss scale, as a GPU does for OPT."""
    from vpgtrans_core.run import run

    choose = run.choose_machine
    monkeypatch.setattr(
        run, "choose_machine", lambda *given: dataclasses.replace(choose(*given), autocast=torch.float16)
    )


def test_fp16_trains_with_a_loss_scale(world: Path, tmp_path: Path, half_arithmetic: None) -> None:
    made = run(world, "llama", tmp_path / "out", cache_features=False)
    exact = run(world, "llama", tmp_path / "exact", cache_features=False)
    for number in ("1", "2"):
        stage, wanted = made.folder.record["stages"][number], exact.folder.record["stages"][number]
        assert stage["bad_steps"] == 0 and stage["steps"] == 3
        assert stage["held_out_loss"] == pytest.approx(wanted["held_out_loss"], rel=0.02)


def test_a_loss_scale_too_high_is_lowered_and_one_that_cannot_help_stops_the_run(
    world: Path, tmp_path: Path, half_arithmetic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler
    with monkeypatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, **k, init_scale=2.0**26))
        made = run(world, "llama", tmp_path / "high", stages=[1], stage1_steps=14, early_stop=False)
    norms = [m["grad_norm"] for m in made.folder.metrics() if "grad_norm" in m]
    assert made.folder.record["stages"]["1"]["bad_steps"] == 0
    assert not math.isfinite(norms[0]) and math.isfinite(norms[-1])
    backward = Stepper.backward

    def infinite(self: Stepper, *given: Any) -> Any:
        result = backward(self, *given)
        for parameter in self.parameters:
            parameter.grad = torch.full_like(parameter, math.inf)
        return result

    monkeypatch.setattr(Stepper, "backward", infinite)
    with pytest.raises(VpgtError, match="not finite"):
        run(world, "llama", tmp_path / "never", stages=[1], stage1_steps=40, early_stop=False)


def test_a_resumed_run_has_the_loss_scale_that_it_had(
    world: Path, tmp_path: Path, half_arithmetic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is still too high when the run is killed: one that began anew would take steps that were skipped."""
    scaler, train_step = torch.amp.GradScaler, StageRunner._train_step
    with monkeypatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", lambda *a, **k: scaler(*a, **k, init_scale=2.0**26))
        more = {"stages": [1], "stage1_steps": 14, "early_stop": False, "checkpoint_steps": 2, "save": "vpg"}
        whole = run(world, "llama", tmp_path / "whole", **more)
        patch.setattr(
            StageRunner, "_train_step", lambda self, *a: 1 / 0 if self.state.step == 3 else train_step(self, *a)
        )
        with pytest.raises(ZeroDivisionError):
            run(world, "llama", tmp_path / "killed", **more)
    resumed = vpgtrans_core.transfer(out=str(tmp_path / "killed"), resume=True)
    norms = [
        [m["grad_norm"] for m in f.metrics() if "grad_norm" in m] for f in (whole.folder, RunFolder(resumed.folder))
    ]
    assert not any(map(math.isfinite, norms[0][:4])) and math.isfinite(norms[0][-1])
    assert [str(n) for n in norms[0]] == [str(n) for n in norms[1]]
    files = [folder / "vpg.safetensors" for folder in (resumed.folder, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_process_without_images_has_a_loss_scale_too(
    world: Path, tmp_path: Path, half_arithmetic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Stepper, *given: Any) -> torch.Tensor:
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)  # as `_sum_gradients` leaves them
        return torch.zeros((), dtype=torch.float64)

    monkeypatch.setattr(Stepper, "_accumulate", nothing)
    made = run(world, "llama", tmp_path / "out", stages=[1])
    assert made.folder.record["stages"]["1"]["steps"] == 3


@pytest.mark.parametrize("cause", [None, "no C++ compiler"])
def test_what_cannot_be_compiled(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str | None
) -> None:
    """Without a compiler a run goes on uncompiled; a block that a compiler fails at stops it and says what to do."""
    from torch._dynamo.exc import TorchDynamoException

    def fails(self: StageRunner) -> Any:
        raise TorchDynamoException("a block is beyond me\nlong story")

    monkeypatch.setattr("vpgtrans_core.run.run.why_not_compile", lambda device: cause)
    monkeypatch.setattr("vpgtrans_core.llm.frozen.FrozenLLM.compile", lambda self: None)
    if cause:
        made = run(world, "llama", tmp_path / "out", compile=True)
        assert made.folder.record["machine"]["compiled"] is False
        return
    monkeypatch.setattr(StageRunner, "run", fails)
    with pytest.raises(VpgtError, match="cannot be compiled: a block is beyond me") as error:
        run(world, "llama", tmp_path / "out", compile=True)
    assert "--no-compile" in str(error.value) and "long story" not in str(error.value)


def test_a_loss_that_is_not_finite_never_reaches_the_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*given: Any, **more: Any) -> Any:
        vpg = load_vpg(*given, **more)
        plain = vpg.prompts
        monkeypatch.setattr(vpg, "prompts", lambda features: plain(features) * float("nan"))
        return vpg

    def remember(self: Run, model: VLModel, *given: Any) -> bool:
        models.append((model, {n: p.detach().clone() for n, p in model.named_parameters()}))
        return False

    models: list[tuple[VLModel, dict[str, torch.Tensor]]] = []
    monkeypatch.setattr("vpgtrans_core.run.run.load_vpg", poisoned)
    monkeypatch.setattr(Run, "_compile", remember)
    with pytest.raises(VpgtError, match="5 consecutive steps"):
        vpgtrans_core.transfer(
            **settings(world, "llama", tmp_path, stage1_steps=9, start="random", cache_features=False)
        )
    ((model, before),) = models
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed" and "not finite" in record["cause"]


def test_wrong_input_is_refused_with_a_hint(world: Path, tmp_path: Path) -> None:
    def refused(kind: type[VpgtError], match: str, **more: Any) -> VpgtError:
        with pytest.raises(kind, match=match) as caught:
            vpgtrans_core.transfer(**{**settings(world, "llama", tmp_path / "new"), **more})
        assert caught.value.hint
        return caught.value

    refused(ModelError, "unknown model", target="lama-mini")
    refused(ModelError, "does not hold a model", target=str(world / "data"))
    refused(VpgtError, "llama", source=str(world / "llama"))
    refused(DataError, "nowhere", data=[str(tmp_path / "nowhere.json")])
    refused(DataError, "images", data=[])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    refused(ConfigError, "already exists", out=str(tmp_path / "full"))
    refused(ConfigError, "not the folder of an earlier run", out=str(tmp_path / "full"), overwrite=True)
    assert (tmp_path / "full" / "file").read_text() == "precious"
    refused(ConfigError, "cannot write", out="/proc/nothing/here")
    refused(ConfigError, "no run to resume", out=str(tmp_path / "full"), resume=True)


def test_observers_are_told(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(default_registry(), "emit", events.append)
    run(world, "llama", tmp_path, save="vpg")
    kinds = [e.kind for e in events]
    assert kinds[0] == "run_start" and kinds[-1] == "run_end"
    assert kinds.count("step") == 6 and kinds.count("stage_start") == 2 and "validation" in kinds

"""Stages that a settings file adds: through the command line, killed and resumed, and records of earlier releases."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.run.test_resume import digest, finish, losses, settings, stop
from tests.warm import vpgt
from vpgtrans_core.errors import ModelError
from vpgtrans_core.recipes.stage import Group
from vpgtrans_core.run.curve import draw_curve
from vpgtrans_core.vlm.model import VLModel


def third(world: Path, **more: Any) -> dict[str, Any]:
    """A stage that trains the projector alone, on data of its own: what stage 2 made of the VPG must survive it."""
    data = str(world / "data/captions.json")
    stage = {"name": "polish", "trains": ["projector"], "data": [data], "steps": 4, "lr": 1e-2, "batch_size": 9}
    return {"stages": ["warm-up", 2, {**stage, **more}]}


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run through the command line from a settings file alone."""
    folder = tmp_path_factory.mktemp("three")
    values = settings(world, folder / "out", **third(world))
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    done = vpgt("transfer", "--config", str(folder / "run.yaml"))
    assert done.returncode == 0, done.stderr
    assert "stage 3 (polish): 4 steps" in done.stderr
    return folder / "out"


def test_record_metrics_card_and_curve_have_the_third_stage(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert [(n, s["name"], s["steps"]) for n, s in record["stages"].items()] == [
        ("1", "warm-up", 4), ("2", "fine-tuning", 4), ("3", "polish", 4),
    ]  # fmt: skip
    assert record["stages"]["3"]["trains"] == ["projector"]
    assert record["stages"]["3"]["data"]["images"] == record["data"]["images"] == 20
    steps = [(stage, step) for stage, step, loss, *_ in losses(whole) if loss is not None]
    assert steps == [(stage, step) for stage in (1, 2, 3) for step in (1, 2, 3, 4)]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    per_step = {stage: {m["captions"] for m in lines if m["stage"] == stage and "captions" in m} for stage in (2, 3)}
    assert per_step == {2: {12}, 3: {9}}
    card = (whole / "README.md").read_text()
    assert "stage 3 (polish): 4 steps" in card and "after stage 3" in card
    assert (whole / "loss.png").stat().st_size > 0


def test_plan_and_cost_have_the_third_stage(whole: Path) -> None:
    config = str(whole.parent / "run.yaml")
    plan = json.loads(vpgt("transfer", "--config", config, "--dry-run", "--json").stdout)
    one, two, three = plan["stages"]
    assert (three["number"], three["name"], three["trains"], three["steps"]) == (3, "polish", ["projector"], 4)
    assert three["trained"] == one["trained"] < two["trained"]
    assert (three["images"], three["captions"]) == (12, 36)
    table = vpgt("plan", "--config", config, "--gpu", "a100", "--offline").stdout
    assert "stage 3 (polish)" in table and "STAGE 3" in table and "polish: trains projector" in table


@pytest.mark.parametrize("place", ["step 3.1", "step 3.3", "save stage3-00000002 weights.safetensors"])
def test_a_run_killed_in_its_third_stage_resumes_bit_for_bit(
    world: Path, whole: Path, tmp_path: Path, place: str
) -> None:
    values = settings(world, tmp_path / "out", **third(world))
    stop(values, place, signal.SIGKILL).wait()
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(whole)
    assert losses(tmp_path / "out") == losses(whole)


def test_a_settings_file_may_be_given_again_on_resuming(world: Path, whole: Path, tmp_path: Path) -> None:
    values = settings(world, tmp_path / "out", **third(world))
    stop(values, "step 3.3", signal.SIGKILL).wait()
    finish({**values, "resume": True})
    assert digest(tmp_path / "out") == digest(whole)


def test_muon_beside_adamw_resumes_bit_for_bit(world: Path, tmp_path: Path) -> None:
    """Muon on the projector in stage 2, in which AdamW trains the VPG."""
    stages = {"stage2_optimizer": "muon"}
    finish(settings(world, tmp_path / "whole", **stages))
    stop(settings(world, tmp_path / "out", **stages), "step 2.3", signal.SIGKILL).wait()
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    stage = json.loads((tmp_path / "whole" / "run.json").read_text())["stages"]["2"]
    assert stage["trains"] == ["projector", "vpg"]
    finish(settings(world, tmp_path / "plain"))
    muon, adamw = (load_file(tmp_path / name / "vpg.safetensors") for name in ("whole", "plain"))
    changed = {name.split(".")[0] for name, value in muon.items() if not value.equal(adamw[name])}
    assert {"language_projection", "qformer"} <= changed  # another projector gives the Q-Former other gradients


def test_the_third_stage_trains_what_it_names(world: Path, whole: Path, tmp_path: Path) -> None:
    """The control for the resumed runs: without the third stage the projector is another one, and the VPG the same."""
    finish(settings(world, tmp_path / "two"))
    two, three = (load_file(folder / "vpg.safetensors") for folder in (tmp_path / "two", whole))
    changed = {name for name, value in three.items() if not value.equal(two[name])}
    assert changed and all("language_projection" in name or "projector" in name for name in changed)


def test_a_record_of_an_earlier_release_goes_on(world: Path, tmp_path: Path) -> None:
    """Before stages were described, a record named them by number, and the warm-up of the learning rate otherwise."""
    finish(settings(world, tmp_path / "whole"))
    stop(settings(world, tmp_path / "out"), "step 2.3", signal.SIGKILL).wait()
    file = tmp_path / "out" / "run.json"
    record = json.loads(file.read_text())
    old = record["settings"]
    old["warmup_steps"], old["warmup_lr"] = old.pop("stage2_lr_warmup_steps"), old.pop("stage2_lr_warmup_start")
    assert old["stages"] == [1, 2] and old["warmup_steps"] == 1
    for stage in record["stages"].values():
        del stage["name"], stage["trains"]
    file.write_text(json.dumps(record))
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    assert "stage 1: 4 steps; stage 2 (fine-tuning): 4 steps" in (tmp_path / "out" / "README.md").read_text()


def test_a_stage_learns_conversations(world: Path, tmp_path: Path) -> None:
    """Of each image one text, with every answer learned, on data of the stage's own."""
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "a cat"), ("human", "Where?"), ("gpt", "on a mat")]
    said = [{"from": who, "value": text} for who, text in turns]
    rows = [{"image": f"{number}.png", "conversations": said} for number in range(16)]
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    chat = {"name": "chat", "trains": ["projector", "vpg"], "texts": "instruction", "max_tokens": 160}
    chat |= {"data": [f"{tmp_path / 'llava.json'}:{world / 'data/images'}"], "steps": 2, "lr": 1e-3, "batch_size": 8}
    finish(settings(world, tmp_path / "out", stages=[1, chat]))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    done = record["stages"]["2"]
    assert (done["name"], done["steps"], done["labels_cut"]) == ("chat", 2, 0)
    assert done["data"]["sources"][0]["format"] == "llava"
    assert done["images"] == done["captions"] == 8  # two answers an image: four images a step, one text each
    assert record["self_check"]["examples"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert next(m["labels"] for m in lines if m["stage"] == 2 and "labels" in m) > 4 * 2


def test_old_and_new_flags_are_one(world: Path, tmp_path: Path) -> None:
    models = ("--from", "opt-mini-s", "--to", "llama-mini", "--dry-run", "--json")
    plans = [
        vpgt("transfer", *models, flag, "7", start, "1e-5", "--stages", "2").stdout
        for flag, start in (
            ("--warmup-steps", "--warmup-lr"),
            ("--stage2-lr-warmup-steps", "--stage2-lr-warmup-start"),
        )
    ]
    assert plans[0] == plans[1]
    found = json.loads(plans[0])
    assert found["settings"]["stage2_lr_warmup_steps"] == 7
    assert [stage["name"] for stage in found["stages"]] == ["fine-tuning"]


def test_the_curve_has_a_colour_and_a_name_for_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (figures.append(self), save(self, path)))
    metrics = [
        {"stage": stage, "step": step, key: 1.0}
        for stage in (1, 2, 3)
        for step in (1, 2)
        for key in ("loss", "held_out_loss")
    ]
    draw_curve(metrics, tmp_path / "loss.png", "title", {3: "chat"})
    lines = [line for line in figures[0].axes[0].get_lines() if not line.get_label().startswith("_")]
    assert len({line.get_color() for line in lines}) == 6
    assert [line.get_label() for line in lines][-2:] == ["stage 3 (chat), training", "stage 3 (chat), held out"]
    assert [list(line.get_xdata()) for line in lines][::2] == [[1, 2], [3, 4], [5, 6]]


def test_groups_are_looked_up_by_name(world: Path) -> None:
    from typing import get_args

    import torch

    from vpgtrans_core.machine import choose_machine
    from vpgtrans_core.models.resolve import resolve_source, resolve_target
    from vpgtrans_core.registry import default_registry
    from vpgtrans_core.settings import Settings
    from vpgtrans_core.vlm.assemble import blank_projector, load_llm, load_vpg

    plain, registry = Settings(device="cpu"), default_registry()
    machine = choose_machine(plain, "bfloat16")
    vpg = load_vpg(resolve_source(str(world / "source"), registry, plain), machine)
    llm = load_llm(resolve_target(str(world / "llama"), registry, plain), machine, plain)
    model = VLModel(vpg, blank_projector(vpg.output_size, llm.embedding_size), llm)
    assert set(model.groups) == set(get_args(Group)) - {"lora"}  # there are no adapters
    for names in (("projector",), ("vpg",), ("projector", "vpg")):
        model.train_only(names)
        assert set(model.trained()) == set(model.parameters_of(names))
        assert model.trains_vpg is ("vpg" in names)
        assert ("projector.weight" in model.trained()) is ("projector" in names)
        _, kind = model.frozen(torch.zeros(1, 3, vpg.preprocessing.size, vpg.preprocessing.size), "pixels")
        assert kind == ("features" if "vpg" in names else "outputs")
    with pytest.raises(ModelError, match="projektor"):
        model.train_only(("projektor",))

"""The lists that ship, and what settings make of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from vpgtrans_core.errors import ConfigError
from vpgtrans_core.recipes.lists import LISTS, MINIATURE, PAPER
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.settings import build, fill, stage_settings, stages_of

CHAT: dict[str, Any] = {
    "name": "chat", "trains": ["projector", "vpg"], "data": "chat.json", "texts": "instruction", "steps": 800,
    "batch_size": 120, "max_tokens": 160, "lr": "3e-5", "min_lr": 1e-5, "lr_warmup_steps": 200,
}  # fmt: skip


def stages(recipe: Any = PAPER, **values: Any) -> tuple[Stage, ...]:
    return stages_of(fill(build(values), recipe, batch_size=1728))


def test_the_paper_s_table() -> None:
    """Section 4 and the paper's code: the projector alone for an epoch at five times the learning rate, constant; then
    VPG and projector, from 1e-6 linearly to 1e-4 and along a cosine to 1e-5."""
    one, two = stages(start="converter")
    assert (one.number, one.name, one.trains, one.texts) == (1, "warm-up", ("projector",), "caption")
    assert (one.epochs, one.lr, one.schedule, one.optimizer) == (1.0, 5e-4, "constant", "adamw")
    assert (two.number, two.name, two.trains, two.early_stop) == (2, "fine-tuning", ("projector", "vpg"), False)
    assert (two.epochs, two.lr, two.min_lr, two.schedule, two.optimizer) == (1.0, 1e-4, 1e-5, "cosine", "adamw")
    assert (two.lr_warmup_start, two.lr_warmup_steps) == (1e-6, 2000)


def test_our_start_has_its_own_optimiser() -> None:
    assert [(s.optimizer, s.schedule) for s in stages()] == [("muon", "muon"), ("adamw", "cosine")]
    assert [(s.optimizer, s.schedule) for s in stages(stage2_optimizer="muon")] == 2 * [("muon", "muon")]
    assert stages(stage1_optimizer="adamw")[0].schedule == "constant"


@pytest.mark.parametrize("method", list(LISTS))
def test_methods(method: str) -> None:
    found = stages(method=method)
    assert tuple(s.number for s in found) == LISTS[method]
    assert found[-1].trains_vpg is (method != "linear")
    assert all(s.optimizer == "adamw" for s in found) or method == "vpgtrans"


def test_the_miniature_s_values() -> None:
    one, two = stages(MINIATURE)
    assert (one.lr, two.epochs, two.lr, two.min_lr) == (0.015, 6.0, 3e-3, 1e-4)
    assert (two.lr_warmup_steps, two.lr_warmup_start) == (5, 1e-4)
    filled = fill(build({}), MINIATURE, batch_size=1728)
    assert (filled.batch_size, filled.val_images, filled.augment, filled.workers) == (80, 100, False, 0)


def test_settings_are_laid_over_the_list() -> None:
    one, two = stages(stage2_lr=1e-3, stage1_steps=7, stage2_epochs=2.0, early_stop=False, stages=[1, "fine-tuning"])
    assert (one.lr, one.steps, one.early_stop) == (5e-3, 7, False)
    assert (two.lr, two.epochs, two.min_lr) == (1e-3, 2.0, 1e-5)
    assert stages(stage2_lr=1e-3, stage1_lr=2e-3)[0].lr == 2e-3


@pytest.mark.parametrize("dash", ["_", "-"])
def test_old_names_of_the_learning_rate_s_warm_up(dash: str) -> None:
    old = build({f"warmup{dash}steps": 3, f"warmup{dash}lr": 1e-7})
    assert (old.stage2_lr_warmup_steps, old.stage2_lr_warmup_start) == (3, 1e-7)
    with pytest.raises(ConfigError, match="stage2_lr_warmup_steps: given twice"):
        build({"warmup_steps": 3, "stage2_lr_warmup_steps": 3})


def test_a_third_stage_is_whole_and_a_known_one_may_be_changed() -> None:
    one, two, three = stages(stages=["warm-up", {"name": "fine-tuning", "epochs": 3, "lr": 1e-5}, CHAT], stage2_steps=9)
    assert one == stages()[0]
    assert (two.steps, two.epochs, two.lr, two.min_lr, two.number) == (None, 3.0, 1e-5, 1e-5, 2)
    assert (three.number, three.lr, three.data, three.texts) == (3, 3e-5, ("chat.json",), "instruction")
    assert (three.schedule, three.optimizer, three.early_stop) == ("cosine", "adamw", False)
    assert [s.number for s in stages(method="inherit", stages=["fine-tuning", CHAT])] == [2, 3]
    assert [s.number for s in stages(stages=["warm-up", CHAT, 2])] == [1, 2, 3]
    adamw = stages(stages=[{"name": "warm-up", "optimizer": "adamw"}, 2])[0]
    assert (adamw.optimizer, adamw.schedule) == ("adamw", "constant")


def test_a_stage_has_its_own_data_and_batch() -> None:
    settings = fill(build({"data": ["a", "b"], "ratios": [1, 2], "stages": [2, CHAT]}), PAPER, batch_size=1728)
    two, three = (stage_settings(settings, stage) for stage in stages_of(settings))
    assert two == settings
    assert (three.data, three.ratios, three.batch_size, three.max_tokens) == (("chat.json",), (), 120, 160)


def test_a_record_gives_back_its_settings() -> None:
    settings = fill(build({"stages": [1, 2, CHAT]}), MINIATURE, batch_size=1)
    again = build(json.loads(json.dumps(dataclasses.asdict(settings))))
    assert again == settings == fill(again, MINIATURE, batch_size=1)
    assert stages_of(again) == stages_of(settings)


def test_everything_wrong_with_stages_is_said_at_once() -> None:
    wrong = [
        "warmup", 4, 1.5,
        {"name": "a", "trains": ["projektor"], "lr": True, "schedule": "cosin", "texts": "x", "epochs": -1, "stepz": 1},
        {"trains": ["vpg"]},
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        build({"stages": wrong, "seed": 1.5, "batch_size": 0})
    for said in (
        "unknown stage 'warmup'; did you mean 'warm-up'?",
        "unknown stage 4; there are 1 (warm-up), 2 (fine-tuning), 3 (",
        "unknown stage 1.5",
        "stage 'a': trains: must be one of projector, vpg, lora, not 'projektor'; did you mean 'projector'?",
        "stage 'a': lr: must be a number, not True",
        "stage 'a': schedule: must be one of constant, cosine, muon, not 'cosin'; did you mean 'cosine'?",
        "stage 'a': texts: must be one of caption, instruction, not 'x'",
        "stage 'a': epochs: must not be negative, not -1",
        "stage 'a': unknown field 'stepz'; did you mean 'steps'?",
        "stages: field 'name' is missing",
        "stages: field 'lr' is missing",
        "seed: must be a whole number, not 1.5",
        "batch_size: must be above 0, not 0",
    ):
        assert any(said in problem for problem in caught.value.problems), said
    assert len(caught.value.problems) == 13


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([2, 1], "warm-up (1) comes before fine-tuning (2)"),
        ([1, 1], "'warm-up' is given more than once"),
        ([1, 2, CHAT, CHAT], "'chat' is given more than once"),
        ([{"name": "fine-tuning", "trains": ["vpg"], "optimizer": "muon"}], "muon is for the projector"),
        ([{"name": "a", "trains": ["vpg"], "lr": 1e-4}], "steps or epochs: one of them must be given"),
        ([{"name": "a", "trains": [], "lr": 1e-4, "steps": 1}], "must name at least one group"),
        ([CHAT | {"schedule": "muon"}], "the optimiser muon needs the schedule muon"),
        ([CHAT | {"ratios": [0.1, 0.2]}], "2 given for 1 data sources"),
    ],
)
def test_stages_that_do_not_fit_together(items: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"stages": items})
    assert any(said in problem for problem in caught.value.problems)


def test_recipes_load_no_torch() -> None:
    code = "import sys, vpgtrans_core.recipes.lists, vpgtrans_core.run.spec, vpgtrans_core.run.pipeline;"
    code += "sys.exit(bool({'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

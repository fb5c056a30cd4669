"""Batch size and measurements by the amount of data: the rules, and that plan, run, record and resume agree on them."""

import json
from pathlib import Path
from typing import Any

import pytest

from vpgtrans_core.planning.plan import plan
from vpgtrans_core.run.batch import batch_size
from vpgtrans_core.run.folder import read_record
from vpgtrans_core.run.pipeline import Silent, transfer
from vpgtrans_core.settings import build
from vpgtrans_core.train.recipe import LOOKED_AT, steps_between_looks
from vpgtrans_core.train.signals import Interrupted


@pytest.mark.parametrize(
    ("captions", "most", "size", "rule"),
    [
        (None, 1728, 1728, "the LLM family's value"),
        (500_000, 1728, 1728, "the LLM family's value"),
        (172_800, 1728, 1728, "the LLM family's value"),
        (172_000, 1728, 1720, "1 % of an epoch's 172,000 captions"),
        (6_236, 1728, 62, "1 % of an epoch's 6,236 captions"),
        (3_200, 1728, 32, "1 % of an epoch's 3,200 captions"),
        (1_600, 1728, 16, "the least, for 1,600 captions"),
        (60, 1728, 16, "the least, for 60 captions"),
        (60, 8, 8, "the least, for 60 captions"),
        (1_600, 16, 16, "the LLM family's value"),
    ],
)
def test_the_rule(captions: float | None, most: int, size: int, rule: str) -> None:
    chosen, why = batch_size(captions, most)
    assert chosen == size and rule in why


@pytest.mark.parametrize(("steps", "held_out", "every"), [(100, 0, 25), (100, 8, 25), (100, 10, 30), (3, 0, 1)])
def test_steps_between_measurements(steps: int, held_out: float, every: int) -> None:
    assert steps_between_looks(steps, held_out) == every
    assert held_out <= LOOKED_AT * every


class Heard(Silent):
    """Keeps messages, and stops a run at a step as Ctrl-C does."""

    def __init__(self, stop_at: int = 0) -> None:
        self.messages: list[str] = []
        self.left = stop_at

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, advance: int = 1, **values: float) -> None:
        self.left -= advance
        if self.left == 0:
            raise Interrupted(2, "here")


def small(world: Path, out: Path, **more: Any) -> dict[str, Any]:
    names = {
        "source": str(world / "source"),
        "target": str(world / "llama"),
        "data": [str(world / "data/captions.json")],
    }
    short = {"workers": 0, "val_images": 4, "device": "cpu", "augment": False, "save": "vpg", "early_stop": False}
    return {**names, **short, "out": str(out), "stage1_steps": 4, "stage2_steps": 2, "checkpoint_steps": 1, **more}


def test_plan_run_record_and_resume_agree(world: Path, tmp_path: Path) -> None:
    values, rule = small(world, tmp_path / "run"), "the least, for 60 captions an epoch"
    planned = plan(build(values), downloads=False)
    assert (planned.batch_captions, planned.batch_rule) == (16, rule)
    assert f"16 captions of 5 images: {rule}" in str(planned)
    heard = Heard(stop_at=3)
    with pytest.raises(Interrupted):
        transfer(build(values), reporter=heard)
    assert f"16 captions a step: {rule}" in heard.messages
    begun = read_record(tmp_path / "run")
    assert begun["batch"] == {"captions": 16, "rule": rule}
    resumed = transfer(out=str(tmp_path / "run"), resume=True).record
    assert resumed["batch"] == begun["batch"] and resumed["settings"]["batch_size"] == 16
    assert resumed["stages"]["1"]["images"] == 4 * 5


def test_a_given_batch_stays(world: Path, tmp_path: Path) -> None:
    """... and the held-out loss of four images with three captions is measured every third step of twelve captions."""
    values = small(world, tmp_path / "run", batch_size=12, stage1_steps=7, stage2_steps=1)
    assert plan(build(values), downloads=False).batch_rule == "as given"
    result = transfer(build(values))
    assert result.record["batch"] == {"captions": 12, "rule": "as given"}
    assert measured(tmp_path / "run") == [0, 3, 6, 7]


def measured(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["stage"] == 1 and "held_out_loss" in row]


def test_recipes_and_stages_have_their_own() -> None:
    mini = plan(build({"source": "opt-mini-s", "target": "llama-mini"}), downloads=False)
    assert (mini.batch_captions, mini.batch_rule) == (80, "the recipe's (miniature)")

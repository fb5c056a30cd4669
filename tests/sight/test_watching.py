"""While a run trains: what it says of a few pictures is kept and shown, its lines are in the metrics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.run.test_self_check import Listening
from vpgtrans_core import loggers
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.loggers.numbers import numbers
from vpgtrans_core.loggers.tensorboard import Logger as TensorBoard
from vpgtrans_core.loggers.trackio import Logger as Trackio
from vpgtrans_core.run.pipeline import transfer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, Listening]:
    """A short run of the miniature with a learning rate at which nothing is learned."""
    out, told = tmp_path_factory.mktemp("run") / "out", Listening()
    result = transfer(
        reporter=told, source="opt-mini-s", target="llama-mini", out=str(out), limit=60, val_images=12, batch_size=20,
        stage1_steps=4, stage2_steps=2, stage1_lr=1e-9, stage2_lr=1e-9, stage2_min_lr=0, validate_every=2,
        stage1_optimizer="adamw", start="random", source_loss=True, device="cpu", workers=0, save="vpg",
    )  # fmt: skip
    return out, result.record, told


def test_the_metrics_hold_the_two_lines_and_what_is_seen(run) -> None:
    out, record, _ = run
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [row for row in metrics if "text_only_loss" in row]
    assert [(row["stage"], row["step"]) for row in lines] == [(1, 0), (2, 0)]
    assert lines[0]["text_only_loss"] == lines[1]["text_only_loss"] > lines[0]["source_loss"] > 0
    for number, stage in record["stages"].items():
        sight = stage["sight"]
        assert sight["own"] == pytest.approx(stage["held_out_loss"], rel=1e-6)
        assert sight["sees"] == pytest.approx(sight["exchanged"] - sight["own"])
        assert {"stage": int(number), "step": stage["steps"], "exchanged_loss": sight["exchanged"]} in metrics
    assert record["verdict"]["sentence"].endswith("that the source sees")


def test_what_is_said_at_each_validation_is_kept_and_shown(run) -> None:
    out, record, _ = run
    watched = record["watched"]["examples"]
    places = ["stage 1, step 0", "stage 1, step 2", "stage 1, step 4", "stage 2, step 0", "stage 2, step 2"]
    assert len(watched) == 4 and all(list(one["said"]) == places for one in watched)
    shown = (out / "samples.html").read_text()
    assert all(place in shown for place in places) and shown.count("data:image/jpeg") == 4
    assert all(one["caption"] in shown for one in watched)
    assert json.dumps(watched) not in (out / "metrics.jsonl").read_text()


def test_a_run_that_learns_nothing_is_told_while_it_trains_and_at_the_end(run) -> None:
    out, record, told = run
    start = "stage 1 step 2: the model looks wrong: its held-out loss did not fall"
    assert any(text.startswith(start) for text in told.warnings)
    kinds = [problem["kind"] for problem in record["verdict"]["problems"]]
    assert "blind" in kinds and "not learned" in kinds
    assert all(any(problem["text"] in text for text in told.warnings) for problem in record["verdict"]["problems"])
    assert "Beware of this model" in (out / "README.md").read_text()


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers.PACKAGES, "trackio", "a_package_that_is_not_there")
    with pytest.raises(ConfigError, match="trackio needs") as raised:
        loggers.check_loggers(["trackio"])
    assert 'pip install "vpgt[trackio]"' in str(raised.value.hint)


def test_numbers_of_an_event() -> None:
    event = RunEvent("step", "out", 1, 5, {"loss": 1.5, "name": "x", "ok": True})
    assert numbers(event) == {"stage 1/loss": 1.5}
    assert numbers(RunEvent("checkpoint", "out", 1, 5, {"loss": 1.0})) == {}


def test_loggers_hear_their_own_run_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list = []
    fake = SimpleNamespace(
        init=lambda **values: calls.append(("init", values["name"])),
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    logger = Trackio(tmp_path / "mine")
    for folder in ("mine", "other"):
        for event in (
            RunEvent("step", str(tmp_path / folder), 2, 1, {"loss": 2.0}),
            RunEvent("sight", str(tmp_path / folder), 2, 1, {"sees": 0.5}),
            RunEvent("run_end", str(tmp_path / folder)),
        ):
            logger.vpgt_run_event(event)
    assert calls == [("init", "mine"), ("log", {"stage 2/loss": 2.0}), ("log", {"stage 2/sees": 0.5}), ("finish",)]


def test_tensorboard_gets_numbers_and_texts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    logger.vpgt_run_event(RunEvent("step", str(tmp_path), 1, 3, {"loss": 1.25}))
    logger.vpgt_run_event(RunEvent("samples", str(tmp_path), 1, 3, {"said": ["a dog"]}))
    logger.vpgt_run_event(RunEvent("run_end", str(tmp_path)))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("stage 1/loss")] == [(3, 1.25)]
    assert "stage 1/picture 1/text_summary" in events.Tags()["tensors"]

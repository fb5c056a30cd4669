"""While a run trains: what it says of a few pictures is kept and shown, its lines are in the metrics."""

from __future__ import annotations

import json
import os
import subprocess
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
from vpgtrans_core.run.curve import draw_curve
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.run.watching import Watcher
from vpgtrans_core.sight.verdict import Losses


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


@pytest.mark.parametrize(
    ("loss", "texts", "told"),
    [
        (2.999, ["a dog", "a cat", "a cup", "a box"], "its held-out loss did not fall: 3.00 before training, now 3.00"),
        (
            2.5,
            ["a dog", "a cat", "a cup", "a box"],
            "its held-out loss, 2.50, is above the 2.00 of its LLM without any",
        ),
        (1.5, ["", " ", "", "a box"], "it generates no text for 3 of 4 images"),
        (1.5, ["a dog"] * 4, "it generates the same text for 4 images ('a dog')"),
        (1.5, ["a dog", "a cat", "a cup", "a box"], ""),
    ],
    ids=["flat", "above text-only", "empty", "constant", "nothing wrong"],
)
def test_what_looks_wrong_is_told_once_from_the_middle_of_a_stage(
    loss: float, texts: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    plan, folder = SimpleNamespace(number=1, steps=10), SimpleNamespace(writes=True)
    watcher = Watcher(plan, None, folder, Losses(text_only=2.0, source=1.0), warnings.append)  # type: ignore[arg-type]
    captions = ["a small dog", "a red cat", "a cup", "a box"]
    pictures = [{"caption": caption, "now": text} for caption, text in zip(captions, texts, strict=True)]
    monkeypatch.setattr(watcher, "_say", lambda step: pictures)
    watcher(0, 3.0)
    watcher(4, loss)
    assert warnings == []
    watcher(5, loss)
    watcher(8, loss)
    watcher(10, loss)  # the end has the verdict
    assert len(set(warnings)) == len(warnings) and bool(warnings) == bool(told)
    assert not told or warnings[0].startswith(f"stage 1 step 5: the model looks wrong: {told}")


def test_the_curve_shows_the_two_lines(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    metrics = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    draw_curve(metrics, tmp_path / "loss.png", "title")
    found = [lines.get_segments()[0][0][1] for lines in drawn[0].axes[0].collections]
    rows = [row for row in metrics if "text_only_loss" in row]
    assert sorted(found) == pytest.approx(
        sorted(row[name] for row in rows for name in ("text_only_loss", "source_loss") if name in row)
    )
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert {"without pictures", "the source's own"} <= set(labels)


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


TRACKED = """
import sys
from pathlib import Path
from vpgtrans_core.cards import RunEvent
from vpgtrans_core.loggers.trackio import Logger

folder = Path(sys.argv[1])
logger = Logger(folder)
for step, loss in ((1, 2.5), (2, 1.25)):
    logger.vpgt_run_event(RunEvent("step", str(folder), 1, step, {"loss": loss}))
logger.vpgt_run_event(RunEvent("run_end", str(folder)))

from trackio.sqlite_storage import SQLiteStorage
print([row["stage 1/loss"] for row in SQLiteStorage.get_logs("vpgt", "mine") if "stage 1/loss" in row])
"""


def test_trackio_itself_keeps_the_numbers(tmp_path: Path) -> None:
    """In a process of its own: trackio settles where it writes when it is imported."""
    pytest.importorskip("trackio")
    own = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", TRACKED, str(tmp_path / "mine")], capture_output=True, text=True,
                         env={**os.environ, **own}, timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[2.5, 1.25]"
    assert list((tmp_path / "trackio").glob("*.db"))


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

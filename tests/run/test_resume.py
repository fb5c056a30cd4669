"""A run that was killed and resumed ends bit for bit as one that was not; Ctrl-C saves; processes agree."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.warm import WarmProcess
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.run.resuming import resumed_settings
from vpgtrans_core.settings import Settings

RUNNER = """
import json, signal, sys, time
import torch
torch.set_num_threads(1)
from vpgtrans_core.run.pipeline import transfer
from vpgtrans_core.train import checkpoint, stage

values, stop_at = json.loads(sys.argv[1]), sys.argv[2]

def hold(where):
    if where == stop_at:
        print("here", flush=True)
        # until the signal that the test sends is noted; a kill needs no noting
        end = time.monotonic() + 600
        noted = lambda: getattr(signal.getsignal(signal.SIGTERM), "__name__", "") != "_note"
        while time.monotonic() < end and (where.startswith("save") or not noted()):
            time.sleep(0.02)

count = stage.StageRunner._count
def counted(self, *args):
    count(self, *args)
    hold(f"step {self.plan.number}.{self.state.step}")
stage.StageRunner._count = counted

write = checkpoint.write_synced
def written(path, content):
    if "checkpoints" in str(path):
        write(path, content[: len(content) // 2])
        hold(f"save {path.parent.name.removeprefix('.writing-')} {path.name}")
    write(path, content)
checkpoint.write_synced = written

transfer(**values)
"""


TWO = """
import json, sys
import torch
from accelerate import debug_launcher  # Accelerate's launcher of CPU processes

def run(values):
    from vpgtrans_core.run.pipeline import transfer

    torch.set_num_threads(1)
    transfer(**values)

debug_launcher(run, (json.loads(sys.argv[1]),), num_processes=2)
"""


def settings(world: Path, out: Path, **more):
    return {
        "source": str(world / "source"), "target": str(world / "llama"), "data": [str(world / "data/captions.json")],
        "out": str(out), "batch_size": 12, "workers": 0, "val_images": 4, "device": "cpu", "warmup_steps": 1,
        "stage1_steps": 4, "stage2_steps": 4, "augment": True, "checkpoint_steps": 2, "save": "vpg",
        "early_stop": False, **more,
    }  # fmt: skip


def start(values, stop_at: str = "") -> WarmProcess:
    return WarmProcess(RUNNER, [json.dumps(values), stop_at])


def finish(values) -> None:
    process = start(values)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def stop(values, stop_at: str, number: int) -> WarmProcess:
    """Start a run and send it a signal when it is at a place."""
    process = start(values, stop_at)
    process.wait_for("here")
    process.send_signal(number)
    return process


def digest(out: Path) -> str:
    return hashlib.sha256((out / "vpg.safetensors").read_bytes()).hexdigest()


def losses(out: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(m["stage"], m["step"], m.get("loss"), m.get("held_out_loss"), m.get("grad_norm")) for m in lines]


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(settings(world, out))
    return out


PLACES = [
    "step 1.1",
    "step 1.3",
    "step 2.3",
    "save stage1-00000004 optimizer.safetensors",
    "save stage2-00000002 weights.safetensors",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_resumes_bit_for_bit(world: Path, whole: Path, tmp_path: Path, place: str) -> None:
    values = settings(world, tmp_path / "out")
    stop(values, place, signal.SIGKILL).wait()
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(whole)
    assert losses(tmp_path / "out") == losses(whole)


def test_workers_change_nothing(world: Path, whole: Path, tmp_path: Path) -> None:
    values = settings(world, tmp_path / "out", workers=2)
    stop(values, "step 2.3", signal.SIGKILL).wait()
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(whole)


def test_a_run_with_another_seed_differs(world: Path, whole: Path, tmp_path: Path) -> None:
    """The control: the digest sees a difference."""
    finish(settings(world, tmp_path / "out", seed=1))
    assert digest(tmp_path / "out") != digest(whole)


@pytest.mark.parametrize(
    ("number", "step", "saved"),
    [(signal.SIGINT, "step 1.2", 3), (signal.SIGTERM, "step 1.2", 3), (signal.SIGTERM, "step 1.4", 4)],
)
def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(
    world: Path, whole: Path, tmp_path: Path, number: signal.Signals, step: str, saved: int
) -> None:
    """Also one that comes in the last step of a stage."""
    values = settings(world, tmp_path / "out", checkpoint_steps=100)
    process = stop(values, step, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "after saving a checkpoint" in errors and "--resume" in errors
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert [p.name for p in (tmp_path / "out" / "checkpoints").glob("stage*")] == [f"stage1-{saved:08}"]
    finish({"out": str(tmp_path / "out"), "resume": True})
    assert digest(tmp_path / "out") == digest(whole)


def test_settings_that_would_change_the_run_are_refused(world: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="stage2_lr: the run") as caught:
        resumed_settings(Settings(out=str(whole), resume=True, seed=3, stage2_lr=0.5, workers=1))
    assert {p.split(":")[0] for p in caught.value.problems} == {"seed", "stage2_lr"}
    assert resumed_settings(Settings(out=str(whole), resume=True, workers=1)).workers == 1


def test_two_processes_end_with_the_weights_of_one(world: Path, tmp_path: Path) -> None:
    """Without dropout, whose draws differ between processes; everything else is the same up to rounding."""
    source = tmp_path / "source"
    source.mkdir()
    for file in (world / "source").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (source / "config.json").write_text(json.dumps(config))
    # AdamW, because Muon orthogonalises in bfloat16, which makes rounding visible
    finish(settings(world, tmp_path / "one", source=str(source), stage1_optimizer="adamw"))
    values = json.dumps(settings(world, tmp_path / "two", source=str(source), stage1_optimizer="adamw"))
    done = subprocess.run(
        [sys.executable, "-c", TWO, values],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "vpg.safetensors") for name in ("one", "two"))
    assert json.loads((tmp_path / "two" / "run.json").read_text())["machine"]["processes"] == 2
    start_weights = load_file(source / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(one["query_tokens"], start_weights["query_tokens"], atol=1e-5)

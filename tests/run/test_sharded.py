"""An LLM in shards gives the run that whole copies give, however unequal the processes' work is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.run.sharded_runs import Case, start
from tests.run.test_machines import without_dropout
from tests.run.test_processes import free_port
from tests.run.test_resume import settings
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.miniature.data import save_training
from vpgtrans_core.processes.launching import remarks
from vpgtrans_core.settings import Settings, build

FAMILIES = ("opt-wide", "llama", "t5")
UNEQUAL: dict[str, dict[str, Any]] = {
    "fewer-images": {"batch_size": 1, "val_images": 1, "stage1_steps": 3, "stage2_steps": 1, "source_loss": True},
    "checkpointed": {"checkpoint_activations": True, "stage1_steps": 1, "stage2_steps": 1},
    "ends-early": {"early_stop": True, "stage1_lr": 1e-9, "stage1_steps": 12, "stage2_steps": 1, "validate_every": 2},
    "bad-pictures": {"max_bad_ratio": 1.0, "stage1_steps": 3, "stage2_steps": 1},
}
"""Settings of runs in which one process has less to do than the other."""


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of runs of two processes each, with the LLM in shards and without, under ``NAME-whole`` and
    ``NAME-shard``."""
    root = tmp_path_factory.mktemp("sharded")
    source = without_dropout(world / "source", root / "source")
    broken = _broken(world / "data", root / "broken")

    def case(name: str, shard: bool, fault: dict[str, int] | None = None, **more: Any) -> Case:
        out = root / f"{name}-{'shard' if shard else 'whole'}"
        own = {"source": source, "stage1_optimizer": "adamw", "stage1_steps": 3, "stage2_steps": 2, "save": "model"}
        own |= {"micro_positions": 128, "cache_features": False, **more, "shard": shard}
        return {"settings": settings(world, out, **own), **({"fault": fault} if fault else {})}

    cases = [case(name, shard, target=str(world / name)) for name in FAMILIES for shard in (False, True)]
    cases += [case("forward", True, {"rank": 1, "gather": 1}), case("backward", True, {"rank": 0, "gather": 3})]
    for name, more in UNEQUAL.items():
        own = more | ({"data": [str(broken)]} if name == "bad-pictures" else {})
        cases += [case(name, shard, **own) for shard in (False, True)]
    cases += [_taught(root, shard) for shard in (False, True)]
    cases += [_tuned(root, world / "data", shard) for shard in (False, True)]
    processes = start(cases, 2, free_port())
    said = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return root


def _broken(data: Path, folder: Path) -> Path:
    """A copy of the data in which most pictures cannot be read: some steps leave a process without any."""
    shutil.copytree(data, folder)
    for number, picture in enumerate(sorted((folder / "images").iterdir())):
        if number % 4:
            picture.write_bytes(b"no picture")
    return folder / "captions.json"


def _taught(root: Path, shard: bool) -> Case:
    """A run in which the source describes the pictures: so few that one process has nothing to do."""
    pictures = root / "pictures"
    if not pictures.exists():
        save_training(8, pictures)
        (pictures / "captions.json").unlink()
    own: dict[str, Any] = {"source": "opt-mini-s", "target": "llama-mini", "data": [str(pictures)], "device": "cpu"}
    own |= {"captions": "source:1", "max_bad_ratio": 1.0, "workers": 0, "val_images": 2, "cache_features": False}
    own |= {"stage1_steps": 1, "stage2_steps": 1, "batch_size": 6, "stage1_optimizer": "adamw", "shard": shard}
    return {"settings": own | {"out": str(root / f"taught-{'shard' if shard else 'whole'}")}}


def _tuned(root: Path, data: Path, shard: bool) -> Case:
    """An earlier case's model is tuned: its LLM comes out of the whole VL-LLM's folder."""
    talk = [{"from": "human", "value": "<image>\na red"}, {"from": "gpt", "value": "circle"}]
    talks = [{"image": f"{n}.png", "conversations": talk} for n in range(7)]
    path = root / "talks" / "llava.json"
    if not path.exists():
        shutil.copytree(data / "images", path.parent)
        path.write_text(json.dumps(talks))
    own: dict[str, Any] = {"method": "tune", "source": str(root / "llama-whole"), "data": [str(path)], "device": "cpu"}
    own |= {"stage3_steps": 2, "stage3_batch_size": 3, "stage3_max_tokens": 60, "template": "plain", "workers": 0}
    own |= {"val_images": 1, "cache_features": False, "augment": False, "shard": shard}
    return {"settings": own | {"out": str(root / f"tuned-{'shard' if shard else 'whole'}")}}


def losses(folder: Path) -> list[list[float]]:
    """Each line's numbers: losses of steps and held-out losses, of all kinds."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [[v for k, v in line.items() if k.endswith(("loss", "text_only", "source")) and v] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> None:
    """Whether two runs have the same losses, the same trained weights, and bit for bit the same LLM.

    A key's bias has no gradient: AdamW makes steps of its rounding errors."""
    for mine, theirs in zip(losses(one), losses(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        near = 0.0 if name.startswith("language_model.") else 1e-6
        assert name.endswith("key.bias") or torch.allclose(value, theirs[name], rtol=0, atol=near), name


@pytest.mark.parametrize("name", [*FAMILIES, *UNEQUAL, "taught", "tuned"])
def test_shards_change_nothing(runs: Path, name: str) -> None:
    one, other = runs / f"{name}-whole", runs / f"{name}-shard"
    assert not json.loads((one / "run.json").read_text())["machine"]["sharded"]
    record = json.loads((other / "run.json").read_text())
    assert record["machine"]["sharded"] and record["machine"]["processes"] == 2 and record["status"] == "done"
    assert record["self_check"]["examples"] == json.loads((one / "run.json").read_text())["self_check"]["examples"]
    same(one, other)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_on_one_process(runs: Path, where: str) -> None:
    """Both cut their batches finer; the result is that of the run which had memory."""
    same(runs / f"{where}-shard", runs / "llama-whole")


def test_the_unequal_cases_are_unequal(runs: Path) -> None:
    record = json.loads((runs / "ends-early-shard" / "run.json").read_text())
    assert record["stages"]["1"]["ended_early"] and record["stages"]["1"]["steps"] < 12
    bad = json.loads((runs / "bad-pictures-shard" / "run.json").read_text())
    assert bad["data"]["bad"]


def test_a_run_in_shards_goes_on_without() -> None:
    """Whether processes hold whole LLMs changes no result."""
    assert build({"shard": False}).shard is False and Settings().shard is None


def test_what_cannot_be_sharded_is_refused() -> None:
    for more in ({"quantization": "4bit"}, {"compile": True}):
        with pytest.raises(ConfigError, match=r"shard: .*give one of"):
            build({"shard": True, **more})
    (one,) = remarks({}, shard=True)
    assert "one process" in one and "torchrun" in one
    assert remarks({"WORLD_SIZE": "2"}, shard=True) == []

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run import tiny_world
from tests.run.test_resume import digest, finish, settings, stop
from vpgtrans_core import transfer

SMALL: dict[str, Any] = {"device": "cpu", "workers": 0, "val_images": 2, "cache_features": False, "augment": False}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``source``, the LLMs ``opt``, ``opt-wide``, ``llama``, ``t5`` and ``data/captions.json``."""
    root = tmp_path_factory.mktemp("world")
    for name in tiny_world.LLMS:
        tiny_world.save_llm(root / name, name, seed=len(name))
    tiny_world.save_source(root / "source", root / "opt")
    tiny_world.save_images(root / "data")
    return root


@pytest.fixture(scope="module")
def talks(world: Path) -> dict[str, str]:
    """Conversations in LLaVA's form, and descriptions in MiniGPT-4's, about the tiny world's pictures."""
    names = sorted(path.name for path in (world / "data").rglob("*.png"))[:12]
    images = next((world / "data").rglob("*.png")).parent
    rows = [
        {
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\na red"},
                {"from": "gpt", "value": "circle"},
                {"from": "human", "value": "on"},
                {"from": "gpt", "value": f"the {('left', 'right')[n % 2]}"},
            ],
        }
        for n, name in enumerate(names)
    ]
    (images / "llava.json").write_text(json.dumps(rows))
    numbers = images / "align"
    (numbers / "image").mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        (numbers / "image" / f"{n}.jpg").write_bytes((images / name).read_bytes())
    captions = [{"image_id": str(n), "caption": "A red circle."} for n in range(len(names))]
    (numbers / "filter_cap.json").write_text(json.dumps({"annotations": captions}))
    return {"llava": str(images / "llava.json"), "align": str(numbers / "filter_cap.json")}


@pytest.fixture(scope="module")
def transferred(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transferred model: the whole folder, hardly trained."""
    out = tmp_path_factory.mktemp("before") / "model"
    captions = str(world / "data" / "captions.json")
    steps = {"stage1_steps": 1, "stage2_steps": 1, "batch_size": 8}
    transfer(source=str(world / "source"), target=str(world / "opt"), data=(captions,), out=str(out), **SMALL, **steps)
    return out


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the runs in processes of their own have: the number of threads decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``llm``, ``data`` and the run ``out``, killed in stage 2, all of which a test may change a copy
    of."""
    root = tmp_path_factory.mktemp("stopped")
    shutil.copytree(world / "llama", root / "llm")
    shutil.copytree(world / "data", root / "data")
    values = settings(world, root / "out", target=str(root / "llm"), data=[str(root / "data/captions.json")])
    stop(values, "step 2.3", signal.SIGKILL).wait()
    return root


@pytest.fixture(scope="module")
def whole(world: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the run would have ended with."""
    out = tmp_path_factory.mktemp("whole") / "out"
    finish(settings(world, out))
    return digest(out)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy, whose record names the copy's places."""
    shutil.copytree(stopped, tmp_path / "run")
    record = tmp_path / "run" / "out" / "run.json"
    record.write_text(record.read_text().replace(str(stopped), str(tmp_path / "run")))
    return tmp_path / "run"

"""The example of an LLM whose class transformers does not have: the kit, the plan, and a whole model that transformers
loads after one import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES
from vpgtrans_core import transfer
from vpgtrans_core.cards import LLMFamily, know_classes
from vpgtrans_core.errors import PluginError
from vpgtrans_core.registry import load_registry
from vpgtrans_core.testing import LLMConformance
from vpgtrans_core.testing.tiny_models import save_pictures, save_tiny_llm
from vpgtrans_core.vlm.captioning import caption

HOME = EXAMPLES / "llm-sketch"
NEW = """
import json, sys
import llm_sketch
from vpgtrans_core.planning.plan import plan
from vpgtrans_core.registry import load_registry
from vpgtrans_core.settings import build

registry = load_registry()
registry.add(llm_sketch, "llm_sketch")
made = plan(build({"source": "opt-mini-s", "target": sys.argv[1]}), registry=registry, downloads=False)
print(made.target.family, made.projector)
"""


class TestSketch(LLMConformance):
    plugin = "llm_sketch"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import llm_sketch.modeling  # noqa: F401

    return save_tiny_llm(tmp_path_factory.mktemp("sketch") / "llm", "sketch")


def alone(code: str, *arguments: str, folder: Path) -> str:
    path = os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_new_process_plans_for_it(folder: Path, tmp_path: Path) -> None:
    """Nothing has imported the class there: the plan does, before it reads the config."""
    assert alone(NEW, str(folder), folder=tmp_path) == "sketch (32, 64)"


def test_transformers_loads_the_whole_model_as_its_card_says(folder: Path, tmp_path: Path) -> None:
    import llm_sketch

    registry = load_registry()
    registry.add(llm_sketch, "llm_sketch")
    data = save_pictures(tmp_path / "data", count=12)
    transfer(
        registry=registry, source="opt-mini-s", target=str(folder), data=[str(data)], out=str(tmp_path / "out"),
        batch_size=12, stage1_steps=1, stage2_steps=1, val_images=2, workers=0, device="cpu", cache_features=False,
    )  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vpgt and transformers need the plugin `llm_sketch`" in card
    code = card.split("```python\n")[1].split("```")[0]
    assert code.startswith("import llm_sketch.modeling")
    picture = tmp_path / "picture.png"
    picture.write_bytes((data.parent / "images" / "0.png").read_bytes())
    assert alone(code, folder=tmp_path) == caption(str(tmp_path / "out"), [picture], registry=registry)[0].text.strip()


def test_classes_that_cannot_be_imported_are_told() -> None:
    family = LLMFamily("lost", ("lost",), "m:A", classes="no_such_module_anywhere")
    with pytest.raises(PluginError, match="registers the classes of the LLM family 'lost', cannot be imported"):
        know_classes(family)

"""The scaffold: what it writes installs for real, registers, works, and passes the kit."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.warm import WarmProcess
from vpgtrans_core.cli.scaffold import write_plugin
from vpgtrans_core.errors import ConfigError


@dataclass(frozen=True)
class Installed:
    """Two written plugins: the folder in which both were written, and the one in which pip installed both."""

    written: Path
    site: Path

    @property
    def environment(self):
        ours = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([str(self.site), *([ours] if ours else [])])
        return os.environ | {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(self.site), "COLUMNS": "200"}

    def module(self, *arguments, folder=None):
        """A Python of its own: ``python -m``."""
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd=folder or self.written)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, code, *arguments):
        process = WarmProcess(code, arguments, environment=self.environment, path=[str(self.site)], folder=self.written)
        out, errors = process.communicate()
        assert process.returncode == 0, out + errors
        return out

    def vpgt(self, *arguments):
        return self.run(None, *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """``vpgt new-plugin`` of each kind, and ``pip install`` of what it wrote."""
    written = tmp_path_factory.mktemp("written")
    new = Installed(written, tmp_path_factory.mktemp("site"))
    new.vpgt("new-plugin", "my-neox", "--kind", "llm", "--model-type", "gpt_neox")
    new.vpgt("new-plugin", "my-eyes", "--kind", "vpg")
    pip = ("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(new.site))
    new.module(*pip, str(written / "my-neox"), str(written / "my-eyes"))
    return new


USE_LLM = """
import torch
from transformers import GPTNeoXConfig
from vpgtrans_core.cards import load
from vpgtrans_core.registry import load_registry

registry = load_registry()
family = registry.llm_family_of("gpt_neox")
adapter = load(family.adapter)
print(registry.owner(family), adapter.__name__, adapter.auto_class().__name__)
"""
USE_VPG = """
import sys
from pathlib import Path
import torch
from vpgtrans_core.cards import load
from vpgtrans_core.registry import load_registry
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.settings import Settings

config = {"image_size": 32, "patch_size": 8, "width": 16, "num_prompts": 4, "output_size": 24, "heads": 2}
registry = load_registry()
adapter = load(registry.vpg_family_of("my_eyes").adapter)
vpg = adapter.from_config(config)
projector = torch.nn.Linear(24, 8)
folder = Path(sys.argv[1])
folder.mkdir()
vpg.save_part(folder, projector, references={})
source = resolve_source(str(folder), registry, Settings())
again = load(source.vpg_family.adapter).load(source.folder)
pixels = torch.rand(2, 3, 32, 32)
assert torch.equal(again(pixels), vpg(pixels))
assert again(pixels).shape == (2, 4, 24)
assert again.features(pixels).shape[1:] == vpg.feature_shape
assert torch.equal(adapter.load_projector(folder)[0], projector.weight)
sizes = adapter.describe(source.config)
assert sizes["trained"] == sum(p.numel() for _, p in vpg.trained())
assert sizes["trained"] + sizes["frozen"] == sum(p.numel() for p in vpg.parameters())
print(source.plugin)
"""


def test_both_register(installed):
    listed = json.loads(installed.vpgt("list-plugins", "--json"))
    found = {r["name"]: (r["distribution"], r["version"], r["status"], r["warnings"]) for r in listed}
    assert found["my_neox"] == ("vpgt-my-neox", "0.1.0", "active", [])
    assert found["my_eyes"] == ("vpgt-my-eyes", "0.1.0", "active", [])


def test_the_llm_plugin_is_used(installed):
    assert installed.run(USE_LLM) == "my_neox MyNeox AutoModelForCausalLM\n"


def test_the_vpg_plugin_works(installed, tmp_path):
    assert installed.run(USE_VPG, str(tmp_path / "source")) == "my_eyes\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [("my-neox", "21 passed, 0 failed, 0 unsupported"), ("my-eyes", "13 passed, 0 failed, 2 unsupported")],
)
def test_what_is_written_passes_the_kit(installed, name, line):
    """By its own tests, and by the command."""
    package = name.replace("-", "_")
    own = installed.module("pytest", "-p", "no:cacheprovider", folder=installed.written / name)
    assert line.split(",")[0] in own
    checked = installed.vpgt("check-plugin", package)
    assert checked.strip().endswith(line)


@pytest.mark.parametrize("kind", ["llm", "vpg"])
def test_written_files_are_clean(tmp_path, kind):
    home = write_plugin("Some-Thing", kind, tmp_path)
    names = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    wanted = {"pyproject.toml", "README.md", "tests/test_some_thing.py", ".github/workflows/test.yml"}
    assert wanted | {"some_thing/__init__.py", "some_thing/adapter.py"} <= names
    assert not [p for p in home.rglob("*") if p.is_file() and "$" in p.read_text()]
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--line-length", "120", str(home)])
    assert checked.returncode == 0


def test_nothing_is_overwritten_and_names_must_be_names(tmp_path):
    write_plugin("my-llm", "llm", tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        write_plugin("my_llm", "llm", tmp_path)
    with pytest.raises(ConfigError, match="no Python package name"):
        write_plugin("../up", "llm", tmp_path)

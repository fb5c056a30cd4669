"""The scaffold: what it writes installs for real, registers, and works."""

import json
import os
import subprocess
import sys

import pytest

from vpgtrans_core.cli.scaffold import write_plugin
from vpgtrans_core.errors import ConfigError


def installed(tmp_path, name, kind, **options):
    """Write a plugin and install it, as pip does, into a folder of its own."""
    pytest.importorskip("hatchling")
    home = write_plugin(name, kind, tmp_path / "written", **options)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(home)], check=True, capture_output=True, text=True)
    return site


def run(site, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site), "XDG_CONFIG_HOME": str(site)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
from vpgtrans_core.resolve import resolve_source
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


def test_new_llm_plugin_installs_registers_and_is_used(tmp_path):
    site = installed(tmp_path, "my-neox", "llm", model_type="gpt_neox")
    listed = json.loads(run(site, "-m", "vpgtrans_core.cli.main", "list-plugins", "--json"))
    record = next(r for r in listed if r["name"] == "my_neox")
    assert (record["distribution"], record["status"], record["warnings"]) == ("vpgt-my-neox", "active", [])
    assert run(site, "-c", USE_LLM) == "my_neox MyNeox AutoModelForCausalLM\n"


def test_new_vpg_plugin_installs_registers_and_works(tmp_path):
    site = installed(tmp_path, "my-eyes", "vpg")
    assert run(site, "-c", USE_VPG, str(tmp_path / "source")) == "my_eyes\n"


@pytest.mark.parametrize("kind", ["llm", "vpg"])
def test_written_files_are_clean(tmp_path, kind):
    home = write_plugin("Some-Thing", kind, tmp_path)
    names = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    wanted = {"pyproject.toml", "README.md", "tests/test_conformance.py", ".github/workflows/test.yml"}
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

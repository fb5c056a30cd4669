"""The guide for plugin authors: no hook is missing from it, and what it shows runs."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import WarmProcess
from vpgtrans_core import hookspecs
from vpgtrans_core.testing.llm_checks import LLM_CHECKS
from vpgtrans_core.testing.vpg_checks import VPG_CHECKS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (?P<mark>.+?) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
BLOCKS = [m.groupdict() for m in BLOCK.finditer(GUIDE)]
HOOKS = [f for name, f in vars(hookspecs).items() if name.startswith("vpgt_")]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda f: f.__name__)
def test_every_hook_is_described_with_its_arguments_and_an_example(hook):
    signature = str(inspect.signature(hook)).replace("'", "")
    assert f"### `{hook.__name__}{signature}`" in GUIDE
    assert any(f"def {hook.__name__}(" in b["text"] for b in BLOCKS if b["kind"] == "python")


def test_no_hook_is_described_that_is_not_there():
    assert set(re.findall(r"^### `(vpgt_\w+)", GUIDE, re.M)) == {f.__name__ for f in HOOKS}


@pytest.mark.parametrize("number", [n for n, b in enumerate(BLOCKS) if b["kind"] == "python" and b["mark"] != "run"])
def test_python_blocks_run(number, tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    space: dict[str, object] = {"__name__": "guide"}
    exec(compile(BLOCKS[number]["text"], f"docs/plugins.md block {number}", "exec"), space)
    for name, value in space.items():
        if name.startswith("vpgt_") and name != "vpgt_run_event":
            assert value()  # type: ignore[operator]


@pytest.mark.parametrize("check", [*LLM_CHECKS, *VPG_CHECKS], ids=lambda c: c.name)
def test_every_check_is_described(check):
    assert f"| `{check.name}` | {check.title} |" in GUIDE


def test_optional_checks_are_named():
    said = GUIDE.split("Only these checks can be declared unsupported:")[1].split("vpgt check-plugin")[0]
    optional = {c.name for c in (*LLM_CHECKS, *VPG_CHECKS) if c.optional}
    assert set(re.findall(r"`(\w+)`", said)) == optional


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_story_runs(tmp_path):
    """The files are written; what is marked runs, in its order; and what is said of it is so."""
    write_files(tmp_path)
    said = {}
    for block in BLOCKS:
        if block["mark"] == "run" and block["kind"] == "python":
            finish(tmp_path, block["text"], [])
        elif block["mark"] == "run":
            said |= {text: line(text, tmp_path) for text in block["text"].splitlines()}
    assert "21 passed, 0 failed, 0 unsupported" in said["vpgt check-plugin ./my_llm.py"]
    assert "13 passed, 0 failed, 2 unsupported" in said["vpgt check-plugin my_eyes"]
    assert "15 passed, 0 failed, 0 unsupported" in said["vpgt check-plugin siglip_mlp"]
    assert said["vpgt caption my-out tiny-data/images/0.png"].strip()
    assert (tmp_path / "my-neox" / "my_neox" / "__init__.py").is_file()
    models = line("vpgt --plugin ./my_llm.py list-models", tmp_path)
    assert "my-llama-1b" in models and "my-vl" in models and "pythia-410m" in models
    assert re.search(r"^llm_t5 .* disabled", line("vpgt list-plugins", tmp_path), re.M)


def write_files(folder: Path) -> None:
    """The files that the guide shows."""
    for block in BLOCKS:
        if (block["mark"] or "").startswith("file: "):
            path = folder / block["mark"].removeprefix("file: ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])


def line(text: str, folder: Path) -> str:
    """A line of the guide as it is run here; pip installs into a folder of the test instead of the environment."""
    program, *arguments = shlex.split(text)
    if program == "vpgt":
        return finish(folder, None, arguments)
    assert (program, *arguments[:2]) == ("pip", "install", "-e")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), f"./{arguments[2]}"], cwd=folder, check=True)
    return ""


def finish(folder: Path, code: str | None, arguments: list[str]) -> str:
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "COLUMNS": "200"}
    path = [str(folder / "site"), str(folder)]
    process = WarmProcess(code, arguments, environment=environment, path=path, folder=folder)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, out + errors
    return out

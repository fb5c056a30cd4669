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


@pytest.mark.parametrize("number", [n for n, b in enumerate(BLOCKS) if b["kind"] == "python"])
def test_python_blocks_run(number):
    space: dict[str, object] = {"__name__": "guide"}
    exec(compile(BLOCKS[number]["text"], f"docs/plugins.md block {number}", "exec"), space)
    for name, value in space.items():
        if name.startswith("vpgt_") and name != "vpgt_run_event":
            assert value()  # type: ignore[operator]


def test_optional_checks_are_named():
    assert all(f"`{c.name}`" in GUIDE for c in (*LLM_CHECKS, *VPG_CHECKS) if c.optional)


def test_the_story_runs(tmp_path):
    """The files are written, the marked commands run, and the plugin passes every check."""
    for block in BLOCKS:
        if (block["mark"] or "").startswith("file: "):
            path = tmp_path / block["mark"].removeprefix("file: ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])
    said = [run(tmp_path, line) for b in BLOCKS if b["mark"] == "run" for line in b["text"].splitlines()]
    assert "19 passed, 0 failed, 0 unsupported" in said[0]
    assert (tmp_path / "my-neox" / "my_neox" / "__init__.py").is_file()
    assert "my-llama-1b" in run(tmp_path, "vpgt list-models")
    assert "pythia-410m" in run(tmp_path, "vpgt --plugin ./my_llm.py list-models")


def run(folder: Path, line: str) -> str:
    program, *arguments = shlex.split(line)
    assert program == "vpgt"
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "vpgtrans_core.cli.main", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

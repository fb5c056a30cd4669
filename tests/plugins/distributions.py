"""Distributions made for a test: real modules, real metadata, real entry points, on a path of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

GOOD = """
from vpgtrans_core import hookimpl
from vpgtrans_core.cards import Command, LLMCard, LLMFamily

VPGT_API = 1

@hookimpl
def vpgt_llm_families():
    card = LLMCard("good-1b", "good/one", 10**9, 64, 2, 4, 128, 1000, "Apache-2.0")
    return [LLMFamily("good", ("good_type",), "good_plugin:Adapter", (card,))]

@hookimpl
def vpgt_commands():
    return [Command("greet", "good_plugin:greet", "Say hello.")]

def greet(name: str = "you"):
    print(f"hello {name}")
"""


def add_distribution(
    root: Path, name: str, code: str | None, *, version: str = "1.0", target: str = "", entry: str = ""
) -> None:
    """Write the module `name` and a distribution ``NAME-dist`` whose entry point names it.

    `code` None leaves the module out; `target` is the entry point's value, `entry` its name (default `name`).
    """
    if code is not None:
        (root / f"{name}.py").write_text(dedent(code))
    info = root / f"{name}_dist-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[vpgt.plugins]\n{entry or name} = {target or name}\n")


def vpgt(*arguments: str, root: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh process with `root` on its path and an empty config folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VPGT_")}
    environment |= {"XDG_CONFIG_HOME": str(root or Path("/nonexistent")), "COLUMNS": "200", "NO_COLOR": "1"}
    environment |= {"PYTHONPATH": str(root)} if root else {}
    command = [sys.executable, "-m", "vpgtrans_core.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment | variables)


def records(root: Path, **variables: str) -> dict[str, dict[str, Any]]:
    """What ``list-plugins --json`` says, by ``name (distribution)``."""
    done = vpgt("list-plugins", "--json", root=root, **variables)
    return {f"{r['name']} ({r['distribution']})": r for r in json.loads(done.stdout)}

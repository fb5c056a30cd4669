"""Distributions made for a test: projects whose wheels are built by hatchling and installed by pip, in few calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from hatchling.builders.wheel import WheelBuilder

from tests import warm

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

class Adapter:
    pass
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}-dist"
version = "1.0"
requires-python = ">=3.11"

[project.entry-points."vpgt.plugins"]
{entry} = "{target}"

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""


@dataclass(frozen=True)
class Distribution:
    """A distribution ``NAME-dist`` with one module of `code`, whose entry point names it.

    Empty `module`, `target` (the entry point's value) and `entry` (its name) are `name`.
    """

    name: str
    code: str
    module: str = ""
    target: str = ""
    entry: str = ""

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        module = self.module or self.name
        (folder / f"{module}.py").write_text(dedent(self.code))
        entry, target = self.entry or self.name, self.target or self.name
        (folder / "pyproject.toml").write_text(
            PROJECT.format(name=self.name, module=module, entry=entry, target=target)
        )
        return folder


def install(root: Path, distributions: Iterable[Distribution]) -> Path:
    """Build wheels and install them into the folder `root`, as ``pip install --target`` does."""
    wheels = [
        str(wheel)
        for d in distributions
        for wheel in WheelBuilder(str(d.write(root / "projects" / d.name))).build(
            directory=str(root / "wheels"), versions=["standard"]
        )
    ]
    site = root / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-deps", "--no-index", "--no-compile", "--target", str(site)]
    done = subprocess.run([*pip, *wheels], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


def vpgt(*arguments: str, path: Iterable[Path] = (), config: Path | None = None, **variables: str) -> Any:
    """Run the command line in a process of its own with `path` before the environment's own and the user's `config`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VPGT_")}
    environment |= {"XDG_CONFIG_HOME": str(config or "/nonexistent"), "COLUMNS": "200", "NO_COLOR": "1"}
    environment |= variables
    return warm.vpgt(*arguments, environment=environment, path=[*map(str, path)])


def records(path: Iterable[Path], **options: Any) -> dict[str, dict[str, Any]]:
    """What ``list-plugins --json`` says, by ``name (distribution)``."""
    done = vpgt("list-plugins", "--json", path=path, **options)
    return {f"{r['name']} ({r['distribution']})": r for r in json.loads(done.stdout)}

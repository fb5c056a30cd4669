"""Torch takes seconds to load; what only lists, resolves or plans does without."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.house.sources import CORE, PLUGINS, files, module_name, tree

HEAVY = ("torch", "transformers", "accelerate")
TOP = ("vpgtrans_core", *(f"vpgtrans_core.{name}" for name in ("errors", "files", "cards", "hookspecs", "settings")))
PROMISE = "Loads no torch."
"""A room whose docstring says so is tested: each of its modules is imported."""
LOAD = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if heavy := {heavy} & set(sys.modules):
        sys.exit(f"{{name}} loads {{', '.join(sorted(heavy))}}")
"""


def load(*modules: str) -> str:
    """Import modules in a process of their own; what it says if one of them loads a heavy library."""
    code = LOAD.format(heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True)
    return done.stderr


def promised() -> dict[str, list[str]]:
    """The rooms that promise it, each with all its modules."""
    rooms = [path for path in CORE.rglob("__init__.py") if PROMISE in (ast.get_docstring(tree(path)) or "")]
    return {module_name(path): [module_name(each) for each in files(path.parent)] for path in rooms}


def test_the_rooms_that_have_to_promise_it_do():
    assert {"vpgtrans_core.registry", "vpgtrans_core.models"} <= set(promised())


@pytest.mark.parametrize("room", [None, *promised()])
def test_no_module_loads_torch(room):
    """The modules at the top first; then those of each room, one after the other."""
    assert load(*(promised()[room] if room else TOP)) == ""


def test_plugins_and_their_cards_load_no_torch():
    packages = [path.parent for path in PLUGINS.glob("*/__init__.py")]
    cards = [f"{package.name}.cards" for package in packages if (package / "cards.py").is_file()]
    assert len(cards) > 3
    assert load(*(package.name for package in packages), *cards) == ""


def test_a_module_that_loads_it_is_told():
    assert "vpgtrans_core.llm.loss loads torch" in load("vpgtrans_core.errors", "vpgtrans_core.llm.loss")

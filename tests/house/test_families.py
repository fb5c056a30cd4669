"""The core knows no model family by name: families come from plugins, those that ship with vpgt too."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.sources import CORE, files, tree
from vpgtrans_core.registry import load_registry

OTHERS = (
    "bloom",
    "falcon",
    "gemma",
    "gpt2",
    "gptj",
    "gpt_neox",
    "granite",
    "mistral",
    "mixtral",
    "mpt",
    "olmo",
    "phi",
    "qwen",
)
"""Families without a plugin, which a special case in the core might name."""
OUTSIDE = ("miniature", "testing")
"""The miniature is OPT, LLaMA and T5 models; the kit for plugin authors builds models to test with."""


@pytest.fixture(scope="module")
def family() -> re.Pattern[str]:
    """What names a family: its name, its model types, and the names its models' aliases begin with."""
    registry = load_registry((), {"XDG_CONFIG_HOME": "/nonexistent"})
    names = set(OTHERS)
    for known in registry.llm_families():
        names |= {known.name, *known.model_types}
        names |= {re.split(r"[-.\d]", card.alias)[0] for card in known.cards if card.alias[1].isalpha()}
    assert {"opt", "llama", "t5", "vicuna"} <= names
    return re.compile(rf"(?<![A-Za-z])(?i:{'|'.join(sorted(names))})(?![a-z])")


def words(module: ast.Module) -> list[str]:
    """Names, attributes, imports and strings of code; docstrings may give examples."""
    documentation = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            found.append(node.value)
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias | ast.FunctionDef | ast.ClassDef):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", "")
            found.append((name.lower() if name.isupper() else name).replace("_", " "))
    return found


def test_the_core_names_no_family(family):
    named = {}
    for path in files(CORE):
        place = path.relative_to(CORE)
        if place.parts[0] not in OUTSIDE:
            # The miniature's aliases (`opt-mini-s`) are in hints: those models are always there.
            found = [word for word in words(tree(path)) if family.search(re.sub(r"\w+-mini\b", "", word))]
            named |= {place.as_posix(): found} if found else {}
    assert named == {}


def test_names_in_code_are_seen_and_examples_in_docstrings_are_not(family):
    code = ast.parse(
        'def f(kind):\n    "As for OPT."\n    return kind == "opt" or LlamaModel(kind.t5_config, OPTION)\n'
    )
    assert [word for word in words(code) if family.search(word)] == ["opt", "LlamaModel", "t5 config"]

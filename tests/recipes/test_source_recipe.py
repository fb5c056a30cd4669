"""A source's card names its recipe and its data; the core knows no source's by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import vpgtrans_core
from vpgtrans_core.cards import SourceCard, load
from vpgtrans_core.recipes.lists import RECIPES
from vpgtrans_core.registry import default_registry
from vpgtrans_core.registry.card_checks import card_problems
from vpgtrans_core.run.spec import run_spec
from vpgtrans_core.settings import Settings

CORE = Path(vpgtrans_core.__file__).parent


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or ""}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_nothing_in_the_core_but_the_command_line_imports_the_miniature() -> None:
    files = [file for file in CORE.rglob("*.py") if not {"miniature", "cli"} & set(file.relative_to(CORE).parts)]
    assert len(files) > 100
    assert not [f for f in files if any(n.startswith("vpgtrans_core.miniature") for n in imported(f))]
    assert any(n.startswith("vpgtrans_core.miniature") for n in imported(CORE / "miniature/listing.py"))


def test_the_miniature_brings_its_data_and_its_recipe() -> None:
    spec = run_spec(Settings(source="opt-mini-s", target="llama-mini"), default_registry(), weights=False)
    assert spec.has_data and len(load(spec.source_data)(3)) == 3
    assert spec.settings.batch_size == RECIPES["miniature"].settings["batch_size"]


def test_a_real_target_needs_data_and_has_the_paper_s_recipe() -> None:
    spec = run_spec(Settings(source="opt-mini-s", target="opt-6.7b", offline=True), default_registry(), weights=False)
    assert not spec.has_data and not spec.source_data
    assert [stage.lr for stage in spec.stages] == [5e-4, 1e-4]


def test_a_wrong_recipe_or_data_is_named() -> None:
    card = SourceCard(alias="x", hub_id="me/x", llm=None, licence="MIT", recipe="papers", data="no target")
    first, second = card_problems(card)
    assert "data: must be written as 'package.module:Object'" in first
    assert "recipe: must be one of paper, miniature, not 'papers'" in second

"""ARCHITECTURE.md has every room, says of it what it says of itself, and names what is public."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vpgtrans_core
from tests.house.sources import CORE, PLUGINS, ROOT, tree

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| `(vpgtrans_core/[\w/]+)/` \| (.+?) \|$", TEXT, re.MULTILINE))
"""What the table of rooms says of each folder."""


def rooms() -> list[Path]:
    """The packages of the core, and those inside them that its table has."""
    inner = [CORE.parent / name for name in TABLE if name.count("/") > 1]
    return [path.parent for path in sorted(CORE.glob("*/__init__.py"))] + inner


@pytest.mark.parametrize("room", rooms(), ids=lambda path: path.name)
def test_a_room_is_in_the_table_with_its_own_words(room):
    docstring = ast.get_docstring(tree(room / "__init__.py"))
    assert docstring, f"{room.name} says nothing of itself"
    assert TABLE.get(room.relative_to(ROOT).as_posix()) == docstring.splitlines()[0]


def test_the_table_has_no_room_that_is_gone():
    assert len(TABLE) > 12
    assert not [name for name in TABLE if not (ROOT / name / "__init__.py").is_file()]


def test_modules_at_the_top_plugins_and_other_folders_are_in_it():
    places = [f"vpgtrans_core/{path.name}" for path in CORE.glob("*.py") if path.name != "__init__.py"]
    places += [f"plugins/{path.parent.name}/" for path in PLUGINS.glob("*/__init__.py")]
    places += [f"{name}/" for name in ("zoo", "benchmarks", "examples", "tests")]
    assert not [place for place in places if f"`{place}`" not in TEXT]


def test_public_names_are_in_it():
    """What the core exports, and the modules that plugins may import."""
    assert not [name for name in vpgtrans_core.__all__ if f"`{name}`" not in TEXT]
    public = set(re.findall(r"`(vpgtrans_core(?:\.\w+)+)`", TEXT))
    assert {"vpgtrans_core.cards", "vpgtrans_core.errors", "vpgtrans_core.weights", "vpgtrans_core.testing"} <= public
    for name in public:
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), name


def test_what_the_guide_and_the_examples_import_is_public():
    public = set(re.findall(r"`(vpgtrans_core(?:\.\w+)*)`", TEXT))
    texts = [(ROOT / "docs/plugins.md").read_text()]
    texts += [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    texts += [path.read_text() for path in (CORE / "cli/new_plugin").rglob("*.template")]
    named = {
        name for text in texts for name in re.findall(r"^(?:from|import) (vpgtrans_core[\w.]*)", text, re.MULTILINE)
    }
    assert len(named) > 5
    assert not named - public - {"vpgtrans_core"}

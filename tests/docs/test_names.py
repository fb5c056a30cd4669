"""What the documents name exists, and what exists has its place in them."""

from __future__ import annotations

import dataclasses
import re

import pytest

import vpgtrans_core
from tests.docs.documents import ROOT, read
from vpgtrans_core.settings import Settings

DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/data.md",
    "docs/plugins.md",
    "docs/checkpoints.md",
    "docs/evaluation.md",
    "docs/lab.md",
    "docs/launching.md",
    "benchmarks/README.md",
)
_PATH = re.compile(r"`((?:vpgtrans_core|plugins|tests|docs|benchmarks|examples|zoo)/[\w/.]*)`")
_PICTURED = re.compile(r"\b((?:\w+/)+(?:\w+\.py)?|\w+\.py)(?=[\s,)]|$)", re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_paths_exist(name):
    assert not [path for path in _PATH.findall(read(name)) if not (ROOT / path).exists()]


def test_the_pictures_files_exist():
    picture = read("ARCHITECTURE.md").split("```")[1]
    named = _PICTURED.findall(picture)
    assert len(named) > 15
    assert not [n for n in named if not any((place / n).exists() for place in (ROOT, ROOT / "vpgtrans_core"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", read(name)) if not link.startswith("http")]
    assert not [link for link in links if not ((ROOT / name).parent / link.partition("#")[0]).exists()]


def test_named_classes_exist():
    """`Class.attribute` in ARCHITECTURE.md is an attribute of a class of that name in the core."""
    source = "\n".join(path.read_text() for path in (ROOT / "vpgtrans_core").rglob("*.py"))
    named = set(re.findall(r"`([A-Z]\w+)\.(\w+)`", read("ARCHITECTURE.md")))
    assert named
    for owner, attribute in named:
        assert re.search(rf"^class {owner}\b", source, re.MULTILINE), owner
        defined = rf"def {attribute}\b|^    {attribute}: "
        assert re.search(defined, source, re.MULTILINE), f"{owner}.{attribute}"


def test_flags_that_the_readme_names_are_settings_or_options():
    source = "\n".join(path.read_text() for path in (ROOT / "vpgtrans_core/cli").rglob("*.py"))
    source += (ROOT / "plugins/vpg_qformer/cli.py").read_text()
    settings = {field.name for field in dataclasses.fields(Settings)}
    prose = re.sub(r"^```.*?^```$", "", read("README.md") + read("docs/data.md"), flags=re.MULTILINE | re.DOTALL)
    for flag in set(re.findall(r"`--([a-z][\w-]*)", prose)):
        name = flag.replace("-", "_")
        known = settings | {name.removeprefix("no_") for name in settings}
        assert {name, name.removeprefix("no_")} & known or f"{name}: Annotated" in source or f"--{flag}" in source, flag


def test_changelog_has_this_version():
    assert f"## {vpgtrans_core.__version__}" in read("CHANGELOG.md")

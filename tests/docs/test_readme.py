"""README's first screen: its numbers are those of the commands that it names, its picture is legible."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.docs.documents import ROOT, read
from vpgtrans_core.cli.main import main

_ROW = r"^\| `([\w.-]+)` \| `([\w.-]+)` \| ([\d.]+) GB \| (fits|`.+`) \| (\d+) \| ([\d.]+) GB \|$"
ROWS = re.findall(_ROW, read("README.md"), re.MULTILINE)
"""What each LLM needs: target, source, GB of weights, what a small GPU takes, hours, GB of the model's folder."""


def plan(source: str, target: str, gpu: str, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--from", source, "--to", target, "--gpu", gpu])
    assert not ended.value.code
    return capsys.readouterr().out


def number(pattern: str, text: str) -> float:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return float(found)


def test_there_are_rows():
    assert len(ROWS) > 4


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_it_needs_is_what_the_plan_prints(row, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    target, source, weights, small, hours, folder = row
    text = plan(source, target, "a100", capsys)
    assert number(r"^LLM weights +([\d.]+) ", text) == pytest.approx(float(weights), abs=0.06)
    assert number(r"^together .* ([\d.]+) +[\d.]+ +[\d.,]+$", text) == pytest.approx(float(hours), abs=0.51)
    assert number(r"^model folder +([\d.]+) GB$", text) == pytest.approx(float(folder), abs=0.06)
    needs = plan(source, target, "rtx4090", capsys)
    assert (small.strip("`") if small != "fits" else "no quantisation needed") in needs


def test_the_picture_has_a_dark_form_and_a_description():
    picture = read("docs/picture.svg")
    ElementTree.fromstring(picture)
    assert "prefers-color-scheme: dark" in picture and "<desc" in picture


def test_what_is_shown_lies_in_the_repository():
    shown = re.findall(r'(?:src="|\]\()(docs/[\w.-]+)', read("README.md"))
    assert len(shown) > 3
    assert not [path for path in shown if not (ROOT / path).is_file()]


def test_limits_and_citation_are_there():
    first, _, rest = read("README.md").partition("## How well it works")
    assert "(#what-was-not-tried)" in first and "## What was not tried" in rest
    assert len(first.splitlines()) < 80
    assert "2305.01278" in rest and "@inproceedings" in rest

"""The documents' Python runs, and the data that they show is read as what they say it is."""

from __future__ import annotations

import json
import re
import tarfile

import pytest
from PIL import Image

from tests.docs.documents import blocks, read
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.readers.detect import FORMATS, read_source

CAPTIONS = {"coco": 2, "karpathy": 3, "llava": 1, "minigpt4": 1, "imagefolder": 2, "table": 2}
"""How many captions the example of each format holds."""


@pytest.mark.slow
def test_the_readmes_python_runs(desk, capsys):
    names: dict = {}
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (desk / "runs/look/config.json").is_file()
    assert len(names["result"].record["stages"]) == 2
    assert names["transfer_plan"].as_dict()["projector"] in ([4096, 768], (4096, 768))
    assert "picture.png" in capsys.readouterr().out


def _section(name: str) -> str:
    found = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", read("docs/data.md"), re.MULTILINE | re.DOTALL)
    assert found, f"docs/data.md has no section {name}"
    return found[1]


def test_every_format_has_a_section():
    assert set(re.findall(r"^### (\w+)$", read("docs/data.md"), re.MULTILINE)) == set(FORMATS)


@pytest.mark.parametrize("format", CAPTIONS)
def test_example_of_a_format_is_read_as_it(format, desk):
    kind, example = re.findall(r"```(\w+)\n(.*?)```", _section(format), re.DOTALL)[0]
    folder = desk / "data"
    folder.mkdir()
    for name in ("cat.jpg", "dog.jpg", "7.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / {"jsonl": "metadata.jsonl", "json": "file.json", "csv": "file.csv"}[kind]).write_text(example)
    listing = read_source(str(folder), None, clean)
    assert listing.describe()["format"] == format
    assert not listing.bad.total
    assert listing.captions == CAPTIONS[format]


def test_manifest_of_shards_is_written(desk):
    shards = desk / "shards"
    shards.mkdir()
    (desk / "0.txt").write_text("a red thing")
    with tarfile.open(shards / "000.tar", "w") as tar:
        tar.add(desk / "0.jpg", "0.jpg")
        tar.add(desk / "0.txt", "0.txt")
    (block,) = blocks("docs/data.md", "python")
    exec(compile(block, "docs/data.md", "exec"), {})
    (manifest,) = [p for p in shards.iterdir() if p.suffix == ".json"]
    assert json.loads(manifest.read_text())["shards"]["000.tar"]["samples"] == 1
    assert len(read_source(str(shards), None, clean)) == 1

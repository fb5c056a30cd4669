"""Rows that no reader may stumble over: one of them costs itself alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import read, said, save_pictures, write
from vpgtrans_core.data import bad
from vpgtrans_core.errors import DataError

ASKED = {"from": "human", "value": "What?"}


@pytest.mark.parametrize(
    "turns", [[{"from": []}, ASKED, {"from": "gpt", "value": "a"}], [{"from": {"x": 1}, "value": "a"}], [None, 7], []]
)
def test_turns_of_nobody(turns: list[Any], tmp_path: Path) -> None:
    (name,) = save_pictures(tmp_path / "images", 1)
    good = {"image": name, "conversations": [ASKED, {"from": "gpt", "value": "a cat"}]}
    listing = read(write(tmp_path / "a.json", [{"image": name, "conversations": turns}, good]))
    assert len(listing) == 1 and sum(listing.bad.counts.values()) == 1


def test_a_name_that_cannot_be_written(tmp_path: Path) -> None:
    (name,) = save_pictures(tmp_path / "images", 1)
    rows = [{"image": "\ud800.png", "caption": "a"}, {"image": name, "caption": "b"}]
    listing = read(write(tmp_path / "a.json", json.dumps(rows)))
    assert said(listing) == [["b"]] and listing.bad.counts == {bad.BAD_ROW: 1}


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 3)
    lines = ["image,caption", f'{names[0]},"a', f"{names[1]},b", f"{names[2]},c"]
    with pytest.raises(DataError):
        read(write(tmp_path / "captions.csv", "\n".join(lines)))


def test_an_image_without_a_name_counts_once(tmp_path: Path) -> None:
    (name,) = save_pictures(tmp_path / "images", 1)
    images = [{"id": 1, "file_name": name}, {"id": 2}]
    notes = [{"image_id": 1, "caption": "a"}, {"image_id": 2, "caption": "b"}]
    listing = read(write(tmp_path / "captions.json", {"images": images, "annotations": notes}))
    assert listing.bad.counts == {bad.BAD_ROW: 1} and listing.samples == 2

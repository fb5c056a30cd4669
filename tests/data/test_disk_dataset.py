"""Folders of the `datasets` library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.conftest import encoded
from tests.data.formats import (
    read,
)
from vpgtrans_core.data import bad, images
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.readers import disk_dataset
from vpgtrans_core.errors import DataError


def test_datasets_without_the_right_columns_say_what_they_hold(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"caption": ["a"]}).save_to_disk(str(tmp_path / "a"))
    with pytest.raises(DataError, match="no image column"):
        read(tmp_path / "a")


def test_datasets_train_part_is_read_whatever_format_it_was_saved_with(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": encoded(i), "path": "y"} for i in range(2)], "text": ["a", "b"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    part = datasets.Dataset.from_dict(rows, features=features).with_format("arrow")
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "d"))
    listing = read(tmp_path / "d")
    assert [images.open_image(sample.image).size for sample in listing] == [(40, 30)] * 2
    datasets.DatasetDict({"a": part, "b": part}).save_to_disk(str(tmp_path / "e"))
    with pytest.raises(DataError, match="the parts a, b"):
        read(tmp_path / "e")


@pytest.mark.parametrize(
    ("value", "kind"), [(None, bad.MISSING_IMAGE), ({"bytes": None, "path": "/etc/passwd"}, bad.OUTSIDE_ROOT)]
)
def test_paths_in_a_dataset_are_not_followed(value: object, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_dataset, "_open", lambda folder, column: [{column: value}])
    with pytest.raises(BadSampleError) as caught:
        disk_dataset.DatasetImage("folder", "image", 0).read()
    assert caught.value.kind == kind


def test_datasets_not_installed_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as caught:
        read(tmp_path)
    assert "vpgt[datasets]" in caught.value.hint

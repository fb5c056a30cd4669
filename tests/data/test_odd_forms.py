"""Forms of captions that people have beside the known ones, and names that mean the same picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import read, said, save_pictures, write
from vpgtrans_core.errors import DataError


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{"image": name, "caption": f"a {n}"} for n, name in enumerate(save_pictures(folder, 3))]


FORMS = {
    "captions by name": lambda rows: {row["image"]: row["caption"] for row in rows},
    "lists by name": lambda rows: {row["image"]: [row["caption"]] for row in rows},
    "rows beside a version": lambda rows: {"version": 1, "data": rows},
    "rows called annotations": lambda rows: {"annotations": rows},
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_in_an_object(form: str, tmp_path: Path) -> None:
    listing = read(write(tmp_path / "a.json", FORMS[form](rows(tmp_path))))
    assert said(listing) == [["a 0"], ["a 1"], ["a 2"]] and not listing.bad.total


def test_an_object_of_several_lists_is_not_guessed_at(tmp_path: Path) -> None:
    whole = rows(tmp_path)
    with pytest.raises(DataError, match="an object with the keys 'train', 'val'"):
        read(write(tmp_path / "a.json", {"train": whole[:2], "val": whole[2:]}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.json", "a.tsv", "a.jsonl"])
def test_a_mark_says_how_a_text_is_encoded(encoding: str, name: str, tmp_path: Path) -> None:
    """Spreadsheets save Unicode as UTF-16."""
    whole = rows(tmp_path)
    text = {
        "a.json": json.dumps(whole),
        "a.jsonl": "\n".join(map(json.dumps, whole)),
        "a.tsv": "image\tcaption\n" + "".join(f"{row['image']}\t{row['caption']}\n" for row in whole),
    }[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert said(read(tmp_path / name)) == [["a 0"], ["a 1"], ["a 2"]]


def test_one_picture_under_two_names_is_one_sample(tmp_path: Path) -> None:
    """Else it could be held out under one name and trained on under the other."""
    whole = rows(tmp_path)
    again = [{"image": f"./{row['image']}", "caption": "b"} for row in whole]
    assert said(read(write(tmp_path / "a.json", whole + again))) == [["a 0", "b"], ["a 1", "b"], ["a 2", "b"]]


def test_ids_that_a_table_of_numbers_wrote(tmp_path: Path) -> None:
    names = save_pictures(tmp_path, 3)
    images = [{"id": f"{n}.0", "file_name": name} for n, name in enumerate(names)]
    notes = [{"image_id": n, "caption": f"a {n}"} for n in range(3)]
    assert len(read(write(tmp_path / "a.json", {"images": images, "annotations": notes}))) == 3


def test_a_pattern_of_other_files_is_refused_in_words(tmp_path: Path) -> None:
    write(tmp_path / "a.json", rows(tmp_path))
    with pytest.raises(DataError, match=r"names a\.json, which is not a \.tar shard"):
        read(tmp_path / "*.json")

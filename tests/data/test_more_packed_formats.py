"""The packed files that people have: tar shards and parquet, in other spellings."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import encoded, read, said, write_tar
from vpgtrans_core.data import bad
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import DataError

# --- webdataset ---


def members(*fields: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [(f"{number:03d}.{name}", data) for number in range(3) for name, data in fields]


JSON = json.dumps({"caption": "from json"}).encode()
NAMES = {
    "a picture of two parts": ([("left.JPG", encoded(1)), ("json", JSON)], "from json"),
    "a mask besides": ([("jpg", encoded(1)), ("seg.png", b"mask"), ("txt", b"from txt")], "from txt"),
    "a mask first": ([("seg.png", b"mask"), ("png", encoded(1)), ("txt", b"from txt")], "from txt"),
    "a text of two parts": ([("jpg", encoded(1)), ("caption.txt", b"from txt")], "from txt"),
    "other texts besides": ([("jpg", encoded(1)), ("ocr.json", b"{broken"), ("txt", b"from txt")], "from txt"),
    "pairs with dots": ([("v1.jpg", encoded(1)), ("v1.txt", b"from txt"), ("cls", b"3")], "from txt"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["", "images17/", "a.b/c/", "./"])
def test_a_key_ends_at_the_first_dot_of_its_base_name(name: str, folder: str, tmp_path: Path) -> None:
    fields, text = NAMES[name]
    path = write_tar(tmp_path / "a.tar", [(folder + key, data) for key, data in members(*fields)])
    listing = read(path)
    assert said(listing) == [[text]] * 3 and not listing.bad.total


def test_several_pictures_of_one_key(tmp_path: Path) -> None:
    fields = [("left.jpg", encoded(1)), ("right.jpg", encoded(2)), ("txt", b"which?")]
    with pytest.raises(DataError, match=r"several images, and it is unclear which to use: left.jpg, right.jpg"):
        read(write_tar(tmp_path / "a.tar", members(*fields)))
    both = [("1.jpg", encoded(1)), ("1.txt", b"one"), ("2.jpg", encoded(2)), ("2.txt", b"two"), ("json", b"{}")]
    listing = read(write_tar(tmp_path / "b.tar", members(*both)))
    assert said(listing) == [["one"], ["two"]] * 3 and listing.keys[1] == "b.tar/000.2" and not listing.bad.total


def test_a_member_with_holes_costs_itself_alone(tmp_path: Path) -> None:
    """Its size is that which it unpacks to, and may lie beyond the archive's end."""
    facts = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a.png",
        "GNU.sparse.realsize": "8000000000",
    }
    holes = tarfile.TarInfo("GNUSparseFile.0/a.png")
    holes.size, holes.pax_headers = 612, facts
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(holes, io.BytesIO(b"1\n0\n100\n".ljust(612, b"\0")))
        for name, data in [("a.txt", b"a"), *members(("png", encoded(1)), ("txt", b"b"))]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    listing = read(tmp_path / "a.tar")
    assert len(listing) == 3 and [(s.kind, "link or special" in s.detail) for s in listing.bad.named] == [
        (bad.BAD_ROW, True)
    ]


def test_hidden_members_are_nothing(tmp_path: Path) -> None:
    hidden = [("._000.jpg", b"finder"), ("a/.DS_Store", b"x")]
    listing = read(write_tar(tmp_path / "a.tar", hidden + members(("jpg", encoded(1)), ("txt", b"a"))))
    assert len(listing) == 3 and not listing.bad.total


def test_what_a_shard_holds_is_said_when_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it holds: img \(3\), cap \(3\)") as caught:
        read(write_tar(tmp_path / "a.tar", members(("img", encoded(1)), ("cap", b"a"))))
    assert "jpg, jpeg, png, webp" in caught.value.hint and "txt" in caught.value.hint
    other = json.dumps({"caption": None, "re_caption": "again", "url": "x"}).encode()
    path = write_tar(tmp_path / "b.tar", members(("jpg", encoded(1)), ("json", other)))
    with pytest.raises(DataError, match=r"its json holds caption \(null\), re_caption, url") as caught:
        read(path)
    assert "--caption-key" in caught.value.hint
    assert said(read(path, key="re_caption")) == [["again"]] * 3


# --- parquet ---


def hub_rows(count: int, **columns: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    pictures = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(count)]
    data = datasets.Dataset.from_dict({"image": pictures, **columns})
    return data.cast_column("image", datasets.Image())


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.mark.usefixtures("hub_cache")
def test_parquet_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for part, texts in (("train-00000-of-00002", "ab"), ("train-00001-of-00002", "cd"), ("test-00000-of-00001", "ef")):
        hub_rows(2, text=list(texts)).to_parquet(str(tmp_path / "repo" / "data" / f"{part}.parquet"))
    listing = read(tmp_path / "repo")
    assert said(listing) == [["a"], ["b"], ["c"], ["d"]] and listing.format == "parquet"
    assert said(read(tmp_path / "repo" / "data" / "test-00000-of-00001.parquet")) == [["e"], ["f"]]


@pytest.mark.usefixtures("hub_cache")
def test_parquet_of_conversations_and_of_img2dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [[{"bytes": encoded(i), "path": None}] for i in range(2)]
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        }
    )
    turns = [{"role": "user", "content": "What colour is it?"}, {"role": "assistant", "content": "a cat"}]
    rows = {"images": pictures, "messages": [turns, turns]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "chat.parquet"))
    assert read(tmp_path / "chat.parquet")[1].captions == (Caption("a cat", "What colour is it?"),)
    import pyarrow
    import pyarrow.parquet

    columns = {"key": ["0", "1"], "jpg": [encoded(0), encoded(1)], "caption": ["one", "two"], "url": ["x", "y"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "00000.parquet")
    assert said(read(tmp_path / "00000.parquet")) == [["one"], ["two"]]


def test_parquet_without_the_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as caught:
        read(tmp_path / "a.parquet")
    assert "vpgt[datasets]" in caught.value.hint

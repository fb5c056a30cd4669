"""The file of captions: what survives a kill, and what does not hold any more."""

from pathlib import Path

from vpgtrans_core.data.data import open_data
from vpgtrans_core.teaching.store import CaptionFile, Told

KEY = {"source": "a", "each": 2}
TOLD = [Told(f"{n}.png", [f"picture {n} of ten"], sha=str(n)) for n in range(10)]
NAMES = [told.image for told in TOLD]


def written(path: Path) -> CaptionFile:
    file = CaptionFile(path, KEY)
    assert file.read(NAMES) == []
    file.add(TOLD[:4])
    file.add(TOLD[4:7])
    return file


def test_lines_are_read_again(tmp_path: Path) -> None:
    written(tmp_path / "a/1.jsonl")
    assert CaptionFile(tmp_path / "a/1.jsonl", KEY).read(NAMES) == TOLD[:7]


def test_a_line_that_was_cut_off_is_removed_with_what_follows(tmp_path: Path) -> None:
    written(tmp_path / "1.jsonl")
    content = (tmp_path / "1.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "1.jsonl").write_bytes(b"".join(content[:3]) + content[3][:-9])
    file = CaptionFile(tmp_path / "1.jsonl", KEY)
    assert file.read(NAMES) == TOLD[:3]
    file.add(TOLD[3:])
    assert CaptionFile(tmp_path / "1.jsonl", KEY).read(NAMES) == TOLD


def test_other_images_and_other_settings_do_not_hold(tmp_path: Path) -> None:
    written(tmp_path / "1.jsonl")
    assert CaptionFile(tmp_path / "1.jsonl", KEY).read([*NAMES[:2], "other.png"]) == TOLD[:2]
    assert CaptionFile(tmp_path / "1.jsonl", KEY | {"each": 3}).read(NAMES) == []
    assert not (tmp_path / "1.jsonl").exists()


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path / "1.jsonl")
    before = (tmp_path / "1.jsonl").read_bytes()
    reader = CaptionFile(tmp_path / "1.jsonl", KEY, writes=False)
    reader.read(["other.png"])
    reader.add(TOLD)
    assert (tmp_path / "1.jsonl").read_bytes() == before
    assert file.keep(TOLD[:7], 2) == TOLD[:2]
    assert CaptionFile(tmp_path / "1.jsonl", KEY).read(NAMES) == TOLD[:2]


def test_the_file_is_data_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in NAMES:
        (tmp_path / "pictures" / name).write_bytes(b"not looked at")
    file = CaptionFile(tmp_path / "1.jsonl", KEY)
    file.read(NAMES)
    file.add([*TOLD[:3], Told(NAMES[3], [])])
    (listing,) = open_data([f"{tmp_path / '1.jsonl'}:{tmp_path / 'pictures'}"]).listings
    assert [sample.key for sample in listing] == NAMES[:3]
    assert [c.text for sample in listing for c in sample.captions] == [t for told in TOLD[:3] for t in told.captions]

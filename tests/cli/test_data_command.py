"""`vpgt data`: what a run would find, and damage that only the manifest's SHA-256 sees."""

import json

import pytest

from tests.data.conftest import save_pictures, shard_members, write_tar
from vpgtrans_core.cli.main import main


def run(capsys, *arguments):
    code = 0
    try:
        main(["data", *map(str, arguments)])
    except SystemExit as end:
        code = end.code or 0
    return code, capsys.readouterr()


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        write_tar(folder / f"{number}.tar", shard_members(10 * number, 10))
    return folder


def flip(path):
    """Change one byte inside an image's data."""
    content = bytearray(path.read_bytes())
    content[700] ^= 0xFF
    path.write_bytes(bytes(content))


def test_whole_shards_are_counted_and_compared(capsys, shards):
    code, said = run(capsys, "check", shards)
    assert code == 0
    assert "webdataset, 30 images" in said.out
    assert "there is no vpgt-shards.json" in said.out
    assert run(capsys, "manifest", shards)[0] == 0
    code, said = run(capsys, "check", shards)
    assert code == 0
    assert "3 shards are whole; 3 match the SHA-256 in vpgt-shards.json" in said.out
    assert json.loads(run(capsys, "check", shards, "--json")[1].out)["shards_compared"] == 3


def test_flipped_byte_is_seen_by_the_manifest_alone(capsys, shards):
    run(capsys, "manifest", shards)
    flip(shards / "1.tar")
    code, said = run(capsys, "check", shards)
    assert code == 2
    assert "1 of 3 shards are damaged" in said.err
    assert "1.tar: its SHA-256 is not that of the manifest; 10 of 10 samples can be read" in said.err
    (shards / "vpgt-shards.json").unlink()
    assert run(capsys, "check", shards)[0] == 0


def test_lone_cut_shard_says_what_is_missing(capsys, shards):
    run(capsys, "manifest", shards)
    path = shards / "2.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, said = run(capsys, "check", path)
    assert code == 2
    assert "2.tar: cut off inside" in said.err
    assert "of 10 samples can be read" in said.err
    (shards / "vpgt-shards.json").unlink()
    assert "nobody knows how many there were" in run(capsys, "check", path)[1].err


def test_shard_that_is_gone_is_named(capsys, shards):
    run(capsys, "manifest", shards)
    (shards / "0.tar").unlink()
    code, said = run(capsys, "check", shards)
    assert code == 2
    assert "0.tar: it is not there; 0 of 10 samples can be read" in said.err


@pytest.mark.parametrize(
    "change",
    [
        {"samples": "10"},
        {"samples": True},
        {"samples": 10**18},
        {"bytes": -1},
        {"bytes": float("nan")},
        {"sha256": "abc"},
        {"sha256": None},
    ],
)
def test_tampered_manifest_is_refused(capsys, shards, change):
    run(capsys, "manifest", shards)
    path = shards / "vpgt-shards.json"
    values = json.loads(path.read_text())
    values["shards"]["0.tar"].update(change)
    path.write_text(json.dumps(values))
    code, said = run(capsys, "check", shards)
    assert code == 2
    assert "is not a manifest of shards" in said.err


@pytest.mark.parametrize("name", ["../0.tar", "/etc/passwd", "a\u001b[2J.tar", ""])
def test_manifest_names_files_beside_itself(capsys, shards, name):
    run(capsys, "manifest", shards)
    path = shards / "vpgt-shards.json"
    values = json.loads(path.read_text())
    values["shards"][name] = values["shards"]["0.tar"]
    path.write_text(json.dumps(values))
    code, said = run(capsys, "check", shards)
    assert (code, "is not a manifest of shards" in said.err) == (2, True)


@pytest.mark.parametrize("content", ["[]", "3", '{"shards": []}', "{"])
def test_what_is_no_manifest_is_refused(capsys, shards, content):
    (shards / "vpgt-shards.json").write_text(content)
    assert run(capsys, "check", shards)[0] == 2


def test_other_data_is_counted_and_its_bad_samples_are_named(capsys, tmp_path):
    save_pictures(tmp_path / "images", 3)
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    rows = [{"image": name, "caption": "a picture"} for name in names] + [{"image": names[0], "caption": 7}]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    code, said = run(capsys, "check", tmp_path / "captions.json")
    assert "3 images, 3 captions" in said.out
    assert "skipped: 1 x bad text" in said.out
    assert code == 2
    assert "more than 0.01 of them" in said.err
    assert run(capsys, "check", tmp_path / "none.json")[0] == 2
    assert run(capsys, "check", "pipe:cat /etc/passwd")[0] == 2


def test_manifest_of_a_folder_without_shards_is_refused(capsys, tmp_path):
    code, said = run(capsys, "manifest", tmp_path)
    assert code == 2
    assert "not a folder with .tar shards" in said.err

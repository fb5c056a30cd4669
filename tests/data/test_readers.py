"""Every format read, recognised, and refused where it is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.data.conftest import encoded, picture, save_pictures, shard_members, write_tar
from vpgtrans_core.data import bad, images
from vpgtrans_core.data.bad import BadSampleError, Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.readers import disk_dataset, llava, shard_manifest
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.data.readers.shard_paths import expand, shards
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import DataError, UnsafeInput, VpgtError


def read(path: Path | str, format: str | None = None) -> Listing:
    return read_source(str(path), format, clean)


def as_json(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def coco(folder: Path, count: int = 4) -> Path:
    names = save_pictures(folder / "images", count)
    pictures = [{"id": i, "file_name": name} for i, name in enumerate([*names, "nobody-says-a-word.png"])]
    notes = [{"image_id": i % count, "caption": f'A "Picture": {i}.'} for i in range(2 * count)]
    return as_json(folder / "captions.json", {"images": pictures, "annotations": notes})


def karpathy(folder: Path) -> Path:
    names = save_pictures(folder / "images", 3)
    rows = [{"image": n, "caption": f"one {n}", "image_id": n} for n in names]
    rows += [{"image": names[0], "caption": ["two", "three"], "image_id": names[0]}]
    return as_json(folder / "list.json", rows)


def conversations(folder: Path) -> Path:
    names = save_pictures(folder / "images", 2)
    turns = [
        {"from": "human", "value": "<image>\nProvide a brief description of the given image."},
        {"from": "gpt", "value": "A red ball"},
        {"from": "human", "value": "What colour is the ball?"},
        {"from": "gpt", "value": "red"},
    ]
    rows = [{"image": n, "conversations": turns} for n in names] + [{"conversations": turns}]
    return as_json(folder / "chat.json", rows)


def minigpt4(folder: Path) -> Path:
    (folder / "image").mkdir(parents=True)
    for number in (1, 2):
        (folder / "image" / f"{number}.jpg").write_bytes(encoded(number, "JPEG"))
    notes = [{"image_id": "1", "caption": "one"}, {"image_id": "2", "caption": "two"}]
    return as_json(folder / "filter_cap.json", {"annotations": notes})


def image_folder(folder: Path) -> Path:
    names = save_pictures(folder, 3)
    lines = [{"file_name": n, "text": f"line {n}"} for n in [*names, names[0]]]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder


def image_folder_csv(folder: Path) -> Path:
    names = save_pictures(folder, 3)
    (folder / "metadata.csv").write_text("file_name,text\n" + "".join(f'{n},"a, {n}"\n' for n in names))
    return folder


def tars(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        write_tar(folder / f"s-{number:02d}.tar", shard_members(10 * number, 10))
    return folder


def on_disk(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [{"bytes": encoded(i), "path": None} for i in range(3)],
        "caption": [["one", "uno"], ["two"], ["three"]],
    }
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return folder


VALID = {
    "coco": (coco, "coco", 4, 8),
    "karpathy": (karpathy, "karpathy", 3, 5),
    "llava": (conversations, "llava", 2, 4),
    "minigpt4": (minigpt4, "minigpt4", 2, 2),
    "jsonl": (image_folder, "imagefolder", 3, 4),
    "csv": (image_folder_csv, "imagefolder", 3, 3),
    "webdataset": (tars, "webdataset", 30, 30),
    "datasets": (on_disk, "datasets", 3, 4),
}


@pytest.mark.parametrize("name", VALID)
def test_a_format_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    make, format, count, captions = VALID[name]
    path = make(tmp_path / "data")
    listing = read(path)
    assert (listing.format, len(listing), listing.captions) == (format, count, captions)
    assert not listing.bad.total
    assert len({sample.key for sample in listing}) == count
    for sample in listing:
        assert images.open_image(sample.image).size == (40, 30)
        assert sample.captions and all(c.text == clean(c.text) for c in sample.captions)
    again = read(path, format)
    assert again.fingerprint() == listing.fingerprint()


def test_captions_are_cleaned_as_in_the_paper() -> None:
    assert clean(' A "Dog" (brown):  runs\n fast!; #1 * ~ok. ') == "a dog brown runs fast 1 ok"
    assert clean("...") == ""


def test_coco_keeps_captions_together_and_counts_silent_images(tmp_path: Path) -> None:
    listing = read(coco(tmp_path))
    assert [c.text for c in listing[1].captions] == ["a picture 1", "a picture 5"]
    assert listing.uncaptioned == 1 and listing.describe()["images_without_caption"] == 1


def test_llava_questions_become_prompts_and_generic_wishes_do_not(tmp_path: Path) -> None:
    listing = read(conversations(tmp_path))
    assert listing[0].captions == (Caption("a red ball"), Caption("red", "What colour is the ball?"))
    assert listing.imageless == 1
    for wish in (
        "Describe the image concisely.",
        "What is this photo about?",
        "Give a short and clear explanation of the subsequent image.",
        "Offer a succinct explanation of the picture presented.",
        "",
    ):
        assert llava.is_generic(wish), wish
    for question in ("Describe the man in the image.", "What colour is it?", "Is there a dog?"):
        assert not llava.is_generic(question), question


def test_images_are_found_where_the_path_says(tmp_path: Path) -> None:
    file = karpathy(tmp_path / "a")
    (tmp_path / "a" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="looked in") as caught:
        read(file)
    assert "after a colon" in caught.value.hint
    assert len(read(f"{file}:{tmp_path / 'elsewhere'}")) == 3
    with pytest.raises(DataError, match="no image folder"):
        read(f"{file}:{tmp_path / 'nowhere'}")


def test_coco_images_are_found_beside_the_annotations_folder(tmp_path: Path) -> None:
    save_pictures(tmp_path / "train2017", 2)
    notes = {"images": [{"id": 1, "file_name": "000.png"}], "annotations": [{"image_id": 1, "caption": "a"}]}
    listing = read(as_json(tmp_path / "annotations" / "captions_train2017.json", notes))
    assert images.open_image(listing[0].image)


@pytest.mark.parametrize("extra", ["coco", "minigpt4"])
def test_a_folder_with_one_json_is_enough(extra: str, tmp_path: Path) -> None:
    path = VALID[extra][0](tmp_path)
    assert read(path.parent).format == extra


# What is wrong as a whole: (how it is made, format asked for, what the message says).
def _write(name: str, data: bytes):
    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name

    return make


WRONG = {
    "missing": (lambda folder: folder / "none.json", None, "there is no data"),
    "empty folder": (lambda folder: folder, None, "empty folder"),
    "empty json": (_write("a.json", b""), None, "is empty"),
    "cut json": (_write("a.json", b'{"images": ['), None, "no valid json"),
    "latin json": (_write("a.json", b'["\xe9"]'), None, "no valid json"),
    "deep json": (_write("a.json", b"[" * 200_000), None, "no valid json"),
    "other json": (_write("a.json", b'{"questions": []}'), None, "keys 'questions'"),
    "number": (_write("a.json", b"3"), None, "holds a int"),
    "no rows": (_write("a.json", b'{"images": [], "annotations": []}'), None, "no captioned image"),
    "wrong format": (_write("a.json", b'[{"image": "a", "caption": "b"}]'), "coco", "not in the format 'coco'"),
    "unknown format": (_write("a.json", b"[]"), "cocoo", "did you mean 'coco'"),
    "unknown file": (_write("a.xyz", b"abc"), None, "in no known format"),
    "compressed tar": (_write("a.tar.gz", b"\x1f\x8babc"), None, "in no known format"),
    "no tar": (_write("a.tar", b"abc" * 1000), None, "damaged shard"),
    "empty tar": (_write("a.tar", b""), None, "damaged shard"),
    "tar without images": (lambda f: write_tar(f / "a.tar", [("a.npy", b"x")]), None, "no captioned image"),
    "folder without metadata": (_write("a.png", encoded(0)), None, "in no known format"),
    "imagefolder without metadata": (lambda f: save_pictures(f, 1) and f, "imagefolder", "not in the format"),
    "tars asked for, none there": (lambda f: save_pictures(f, 1) and f, "webdataset", "no .tar shards"),
    "dataset folder that is none": (lambda f: save_pictures(f, 1) and f, "datasets", "cannot open"),
    "images nowhere": (_write("a.json", b'[{"image": "a.png", "caption": "b"}]'), None, "none of the images"),
    "absolute names": (_write("a.json", b'[{"image": "/etc/passwd", "caption": "b"}]'), None, "outside of its folder"),
    "names that climb": (_write("a.json", b'[{"image": "../../x.png", "caption": "b"}]'), None, "none of the images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_refused_with_what_was_seen(name: str, tmp_path: Path) -> None:
    make, format, message = WRONG[name]
    if format == "datasets":
        pytest.importorskip("datasets")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        read(make(folder), format)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("path", ["pipe:cat a.tar", "https://example.org/a.tar", "s3://bucket/{0..3}.tar"])
def test_only_files_are_read(path: str) -> None:
    with pytest.raises(UnsafeInput):
        read(path)


def test_bad_rows_are_counted_by_kind(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 4)
    pictures = [{"id": i, "file_name": n} for i, n in enumerate(names)] + [{"id": 9}, "x"]
    notes = [
        {"image_id": 0, "caption": "fine"},
        {"image_id": 0, "caption": " ... "},
        {"image_id": 1, "caption": 7},
        {"image_id": 2, "caption": "\ud800"},
        {"image_id": 3, "caption": "x" * 30_000},
        {"image_id": 3},
        {"caption": "nobody"},
        {"image_id": 77, "caption": "no such image"},
        {"image_id": 3, "caption": "fine"},
    ]
    listing = read(as_json(tmp_path / "a.json", {"images": pictures, "annotations": notes}))
    assert len(listing) == 2
    assert listing.bad.counts == Counter(
        {bad.EMPTY_CAPTION: 1, bad.BAD_TEXT: 3, bad.MISSING_TEXT: 1, bad.BAD_ROW: 3, bad.MISSING_IMAGE: 1}
    )
    assert "2 caption 1: bad text" in " ".join(map(str, listing.bad.named))


def test_too_many_bad_rows_stop_with_the_list(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 50)
    rows = [{"image": n, "caption": "" if i < 2 else "fine"} for i, n in enumerate(names)]
    file = as_json(tmp_path / "a.json", rows)
    with pytest.raises(DataError, match="2 of 50 samples are bad") as caught:
        open_data([file])
    assert "000.png caption 1: empty caption" in caught.value.message and "--max-bad-ratio" in caught.value.hint
    assert open_data([file], bounds=Bounds(ratio=0.05)).images == 48
    with pytest.raises(DataError, match="2 bad samples in a row"):
        open_data([file], bounds=Bounds(ratio=0.05, run=1))


# --- tar shards ---


def test_ungrouped_and_dotted_members_find_each_other(tmp_path: Path) -> None:
    members = shard_members(0, 3)
    members = members[::2] + members[1::2] + [("a.b.c.png", encoded(9)), ("a.b.c.json", b'{"caption": "dots"}')]
    listing = read(write_tar(tmp_path / "a.tar", members))
    assert [s.captions[0].text for s in listing] == ["picture 0", "picture 1", "picture 2", "dots"]


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ([("x.png", encoded(1))], bad.MISSING_TEXT),
        ([("x.png", encoded(1)), ("x.json", b'{"url": "a"}')], bad.MISSING_TEXT),
        ([("x.txt", b"a")], bad.MISSING_IMAGE),
        ([("x.png", encoded(1)), ("x.txt", b"")], bad.EMPTY_CAPTION),
        ([("x.png", encoded(1)), ("x.txt", b"\xff\xfe")], bad.BAD_TEXT),
        ([("x.png", encoded(1)), ("x.json", b"{")], bad.BAD_TEXT),
        ([("x.png", encoded(1)), ("x.txt", b"a" * (2 << 20))], bad.TOO_MANY_BYTES),
        ([("../x.png", encoded(1)), ("../x.txt", b"a")], bad.OUTSIDE_ROOT),
        ([("/x.png", encoded(1)), ("/x.txt", b"a")], bad.OUTSIDE_ROOT),
        ([("0000.png", encoded(1))], bad.DUPLICATE_KEY),
    ],
)
def test_bad_members_are_counted_once(members: list, kind: str, tmp_path: Path) -> None:
    listing = read(write_tar(tmp_path / "a.tar", shard_members(0, 4) + members))
    assert len(listing) == 4
    assert listing.bad.counts == Counter({kind: 1})


def test_json_and_txt_of_one_sample_are_one_caption(tmp_path: Path) -> None:
    for order in (1, -1):
        texts = [("x.txt", b"from txt"), ("x.json", b'{"caption": "from json"}')][::order]
        listing = read(write_tar(tmp_path / "a.tar", [("x.png", encoded(1)), *texts]))
        assert [c.text for c in listing[0].captions] == ["from txt"]


def _cut_at_member(data: bytes) -> bytes:
    return data[: 512 + 512 * -(-len(encoded(0)) // 512)]


DAMAGE = {
    "cut at a member": (_cut_at_member, "end mark is missing"),
    "cut in a member": (lambda d: d[: len(d) // 2], "cut off inside"),
    "cut in a header": (lambda d: _cut_at_member(d) + d[:200], "end mark is missing|broken header|no whole"),
    "broken header": (lambda d: _cut_at_member(d) + b"\xff" * 512 + d[len(_cut_at_member(d)) + 512 :], "broken header"),
    "early end mark": (lambda d: _cut_at_member(d) + bytes(1024) + d[len(_cut_at_member(d)) :], "end mark at byte"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_that_other_readers_pass_over_is_seen(name: str, tmp_path: Path) -> None:
    folder = tars(tmp_path / "shards")
    hurt, message = DAMAGE[name]
    victim = folder / "s-01.tar"
    victim.write_bytes(hurt(victim.read_bytes()))
    listing = read(folder)
    lost = 30 - len(listing)
    assert lost > 0
    named = [sample for sample in listing.bad.named if sample.kind == bad.DAMAGED_SHARD]
    assert [sample.key for sample in named] == ["s-01.tar"]
    import re

    assert re.search(message, named[0].detail)
    assert listing.bad.counts[bad.DAMAGED_SHARD] >= lost - 1
    with pytest.raises(DataError, match="damaged shard"):
        open_data([folder])


def test_one_damaged_shard_of_many_is_recorded_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        write_tar(folder / f"{number:02d}.tar", shard_members(10 * number, 10))
    data = (folder / "07.tar").read_bytes()
    (folder / "07.tar").write_bytes(data[: -(10240 + 512)])
    listing = open_data([folder], bounds=Bounds(ratio=0.05)).listings[0]
    assert len(listing) >= 190 and listing.bad.counts[bad.DAMAGED_SHARD] >= 1


def test_the_manifest_sees_every_flip_cut_and_loss(tmp_path: Path) -> None:
    import random

    folder = tars(tmp_path / "shards")
    shard_manifest.write_manifest(shards(str(folder)))
    assert not read_source(str(folder), None, clean, hashes=True).bad.total
    victim = folder / "s-01.tar"
    whole = victim.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        victim.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert read_source(str(folder), None, clean, hashes=True).bad.counts[bad.DAMAGED_SHARD]
        victim.write_bytes(whole[:place])
        assert read(folder).bad.counts[bad.DAMAGED_SHARD]
    victim.unlink()
    assert read(folder).bad.counts[bad.DAMAGED_SHARD] == 10
    (folder / shard_manifest.NAME).write_text('{"shards": {"a": 3}}')
    with pytest.raises(DataError, match="no manifest"):
        read(folder)


def test_patterns_name_shards(tmp_path: Path) -> None:
    folder = tars(tmp_path / "shards")
    assert len(read(f"{folder}/s-{{00..02}}.tar")) == 30
    assert len(read(f"{folder}/s-{{00,02}}.tar")) == 20
    assert len(read(f"{folder}/s-0[12].tar")) == 20
    assert len(read(folder / "s-00.tar")) == 10
    assert expand("{8..11}-{a,b}") == ["8-a", "8-b", "9-a", "9-b", "10-a", "10-b", "11-a", "11-b"]
    for wrong in (f"{folder}/s-{{00..03}}.tar", f"{folder}/x-*.tar", f"{folder}/{{0..99999999999}}.tar"):
        with pytest.raises(VpgtError):
            read(wrong)


def test_a_webdataset_written_by_its_own_library_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"k{number}", "jpg": encoded(number, "JPEG"), "json": {"caption": f"n {number}"}})
    assert [s.captions[0].text for s in read(tmp_path / "a.tar")] == ["n 0", "n 1", "n 2"]


# --- datasets on disk ---


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


def test_pairs_in_memory() -> None:
    listing = Listing.from_pairs([(picture(i), [f"Caption {i}", Caption("yes", "Is it?")]) for i in range(3)])
    assert listing[2].captions == (Caption("Caption 2"), Caption("yes", "Is it?"))
    assert len(open_data([listing]).train[0]) == 3


# --- real data ---


@pytest.mark.parametrize("path", ["captions.json", "shards", "shards/nlvr-{000000..000002}.tar"])
def test_nlvr_is_read_whole(nlvr: Path, path: str) -> None:
    data = open_data([nlvr / path])
    assert data.images == 1094 and not data.listings[0].bad.total
    for sample in data.listings[0]:
        assert images.open_image(sample.image).size == (400, 100)
    if path == "captions.json":
        assert data.listings[0].uncaptioned == 884

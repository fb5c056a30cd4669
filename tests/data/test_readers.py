"""Every format read, recognised, and refused where it is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data.conftest import encoded, picture, save_pictures, write_tar
from tests.data.formats import (
    as_json,
    coco,
    conversations,
    image_folder,
    image_folder_csv,
    karpathy,
    minigpt4,
    on_disk,
    read,
    tars,
)
from vpgtrans_core.data import bad, images
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.describing import is_generic
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import DataError

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
        assert is_generic(wish), wish
    for question in ("Describe the man in the image.", "What colour is it?", "Is there a dog?"):
        assert not is_generic(question), question


def test_images_are_found_where_the_path_says(tmp_path: Path) -> None:
    file = karpathy(tmp_path / "a")
    (tmp_path / "a" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="looked in") as caught:
        read(file)
    assert "after a colon" in caught.value.hint
    assert len(read(f"{file}:{tmp_path / 'elsewhere'}")) == 3
    with pytest.raises(DataError, match=r"the image folder .* does not exist"):
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
    "missing": (lambda folder: folder / "none.json", None, "does not exist"),
    "empty folder": (lambda folder: folder, None, "empty folder"),
    "empty json": (_write("a.json", b""), None, "is empty"),
    "cut json": (_write("a.json", b'{"images": ['), None, "not valid json"),
    "latin json": (_write("a.json", b'["\xe9"]'), None, "not valid json"),
    "deep json": (_write("a.json", b"[" * 200_000), None, "not valid json"),
    "other json": (_write("a.json", b'{"questions": []}'), None, "keys 'questions'"),
    "number": (_write("a.json", b"3"), None, "holds a int"),
    "no rows": (_write("a.json", b'{"images": [], "annotations": []}'), None, "no captioned image"),
    "wrong format": (_write("a.json", b'[{"image": "a", "caption": "b"}]'), "coco", "not in the format 'coco'"),
    "unknown format": (_write("a.json", b"[]"), "cocoo", "did you mean 'coco'"),
    "unknown file": (_write("a.xyz", b"abc"), None, "not in a known format"),
    "compressed tar": (_write("a.tar.gz", b"\x1f\x8babc"), None, "not in a known format"),
    "no tar": (_write("a.tar", b"abc" * 1000), None, "damaged shard"),
    "empty tar": (_write("a.tar", b""), None, "damaged shard"),
    "tar without images": (lambda f: write_tar(f / "a.tar", [("a.npy", b"x")]), None, "no captioned image"),
    "folder without metadata": (_write("a.png", encoded(0)), None, "not in a known format"),
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

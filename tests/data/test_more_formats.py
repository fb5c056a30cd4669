"""The files that people have: other spellings of the known formats, and what is said when nothing fits."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import encoded, read, said, save_pictures, write, write_tar
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.conversation import ImageMark
from vpgtrans_core.data.data import open_data
from vpgtrans_core.data.readers.detect import read_source
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import DataError

# --- json ---


def own_file(folder: Path, parts: list[str], filepath: bool) -> Path:
    rows = []
    for number, part in enumerate(parts):
        name = save_pictures(folder / "images" / (part if filepath else ""), number + 1)[-1]
        sentences = [{"tokens": ["a"], "raw": f"A {number}."}, {"raw": f"b {number}", "sentid": 3}]
        rows.append({"filename": name, "split": part, "sentences": sentences, "imgid": number})
        rows[-1] |= {"filepath": part} if filepath else {}
    return write(folder / "dataset_coco.json", {"images": rows, "dataset": "coco"})


@pytest.mark.parametrize("format", [None, "karpathy"])
@pytest.mark.parametrize("filepath", [True, False])
def test_karpathys_own_file(format: str | None, filepath: bool, tmp_path: Path) -> None:
    listing = read(own_file(tmp_path, ["train", "restval", "val", "test"], filepath), format)
    assert said(listing) == [["a 0", "b 0"], ["a 1", "b 1"]] and listing.format == "karpathy" and not listing.bad.total


def test_karpathys_file_without_a_part_to_train_on_is_taken_whole(tmp_path: Path) -> None:
    assert len(read(own_file(tmp_path, ["val", "test"], True))) == 2


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.json.gz", "a.jsonl.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_object_a_line_under_any_name(name: str, end: str, tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 3)
    text = end.join(json.dumps({"image": n, "caption": f"x\u2028y\u0085z {n}"}, ensure_ascii=False) for n in names)
    data = ("\ufeff" + text + end).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert said(read(tmp_path / name)) == [[f"x y z {n[:3]} png"] for n in names]


def test_an_array_under_the_name_of_lines(tmp_path: Path) -> None:
    rows = [{"image": n, "caption": "a"} for n in save_pictures(tmp_path / "images", 2)]
    assert len(read(write(tmp_path / "a.jsonl", json.dumps(rows, indent=1)))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"image": "a.jpg", "caption": "b"}\n{"image": "b.j', "line 2"), ('{"image": [\n', "not valid json")],
)
def test_cut_lines_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.jsonl", text))


def test_objects_after_objects_and_one_alone(tmp_path: Path) -> None:
    rows = [{"image": n, "caption": "a"} for n in save_pictures(tmp_path / "images", 3)]
    assert len(read(write(tmp_path / "a.json", "\n".join(json.dumps(row, indent=1) for row in rows)))) == 3
    assert len(read(write(tmp_path / "b.json", json.dumps(rows[0], indent=1)))) == 1


PACK = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", ["a.json", "a.json.bz2", "a.csv", "a.tar", "a.tar.gz"])
def test_packed_files_are_read_or_named_as_such(kind: str, name: str, tmp_path: Path, caplog: Any) -> None:
    """Whatever the name says. Nobody is told to download a whole file again."""
    (image,) = save_pictures(tmp_path / "images", 1)
    tar = write_tar(tmp_path / "images" / "t.tar", [("a.png", encoded(0)), ("a.txt", b"a")]).read_bytes()
    text = f"image,caption\n{image},a\n" if ".csv" in name else json.dumps([{"image": image, "caption": "a"}])
    (tmp_path / name).write_bytes(PACK[kind](tar if ".tar" in name else text.encode()))
    if kind == "gzip" and ".tar" not in name and ".bz2" not in name:
        assert said(read(tmp_path / name)) == [["a"]]
        return
    with pytest.raises(DataError, match=f"compressed .{kind}.") as caught:
        read(tmp_path / name)
    assert "unpack it" in f"{caught.value}{caught.value.hint}{caplog.text}" and "again" not in caplog.text


def test_a_file_of_no_known_format_is_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a file of \d+ bytes that begins with 'image\^caption'"):
        read(write(tmp_path / "a.csv", "image^caption\n000.png^a cat\n"))


def test_ids_that_differ_in_zeros_alone_stay_apart(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 3)
    pictures = [{"id": i, "file_name": n} for i, n in zip(("7", "007", 8), names, strict=True)]
    notes = [{"image_id": i, "caption": c} for i, c in (("7", "a"), ("007", "b"), ("0008", "c"), ("07", "whose"))]
    listing = read(write(tmp_path / "a.json", {"images": pictures, "annotations": notes}))
    assert said(listing) == [["a"], ["b"], ["c"]] and listing.bad.counts == {bad.MISSING_IMAGE: 1}


@pytest.mark.parametrize("of_image", [int, str, float, lambda i: f"{i:06d}"])
@pytest.mark.parametrize("of_caption", [int, str, float, lambda i: f"{i:012d}"])
def test_ids_match_however_they_are_written(of_image: Any, of_caption: Any, tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 3)
    pictures = [{"id": of_image(i), "file_name": n} for i, n in enumerate(names)]
    notes = [{"image_id": of_caption(i), "caption": f"c {i}"} for i in range(3)]
    listing = read(write(tmp_path / "a.json", {"images": pictures, "annotations": notes}))
    assert said(listing) == [["c 0"], ["c 1"], ["c 2"]] and not listing.bad.total


TURNS = [
    [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "a cat"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "<image>What colour is it?"},
     {"role": "assistant", "content": "a cat"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]},
     {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}],
]  # fmt: skip


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("field", ["conversations", "messages"])
@pytest.mark.parametrize("image", ["000.png", ["000.png"], {"path": "000.png"}, [{"path": "000.png"}]])
@pytest.mark.parametrize("images_field", ["image", "images"])
def test_conversations_in_every_spelling(turns: Any, field: str, image: Any, images_field: str, tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 1)
    listing = read(write(tmp_path / "a.json", [{images_field: image, field: turns}]))
    assert listing[0].captions == (Caption("a cat", "What colour is it?"),) and listing.format == "llava"


def test_a_picture_named_in_what_is_said(tmp_path: Path) -> None:
    save_pictures(tmp_path / "images", 1)
    parts = [{"type": "image", "image": "000.png"}, {"type": "text", "text": "Describe the image."}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a cat"}]
    assert read(write(tmp_path / "a.jsonl", json.dumps({"messages": turns})))[0].captions == (Caption("a cat"),)


def test_speakers_are_named_where_no_answer_is_theirs(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 2)
    turns = [
        [{"from": a, "value": "q"}, {"from": b, "value": "a"}] for a, b in (("USER", "ASSISTANT"), ("user", "bot"))
    ]
    listing = read(
        write(tmp_path / "a.json", [{"image": n, "conversations": t} for n, t in zip(names, turns, strict=True)])
    )
    assert len(listing) == 1 and "no answer; it has user, bot; answers are those of gpt" in listing.bad.named[0].detail


def test_rows_of_several_pictures_are_named_as_such(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 2)
    rows = [{"image": names, "caption": "b"}, {"image": names[:1], "caption": "b"}]
    listing = read(write(tmp_path / "a.json", rows))
    assert len(listing) == 1 and "it names 2 images, but a row may have one" in str(listing.bad.named[0])


def test_a_conversation_in_parts_about_several_pictures(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 2)
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}, {"type": "text", "text": "?"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]
    sample = read(write(tmp_path / "a.json", [{"images": names, "messages": turns}]))[0]
    assert [image.name for image in sample.images] == names
    assert sample.texts[0].turns[0].content == (ImageMark(0), "and", ImageMark(1), "?")


def test_scattered_bad_rows_are_not_in_a_row(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for name in save_pictures(tmp_path / "images", 60):
        rows += [{"image": name, "caption": "a"}, {"caption": "without image"}]
    assert open_data([write(tmp_path / "a.json", rows)], bounds=Bounds(0.6, 5)).images == 60


# --- places ---


def rows_in(folder: Path, names: list[str]) -> Path:
    return write(folder / "a.json", [{"image": name, "caption": "a"} for name in names])


def test_colons_in_folders(tmp_path: Path) -> None:
    file = rows_in(tmp_path / "12:30" / "x", save_pictures(tmp_path / "a:b" / "c:d", 2))
    assert len(read(f"{file}:{tmp_path / 'a:b' / 'c:d'}")) == 2
    assert len(read(rows_in(tmp_path / "e:f", save_pictures(tmp_path / "e:f" / "images", 2)))) == 2


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_file", ["NFC", "NFD"])
@pytest.mark.parametrize("count", [1, 300])
def test_letters_with_accents_in_either_form(on_disk: Any, in_file: Any, count: int, tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize(on_disk, "Bücher")
    folder.mkdir()
    names = []
    for number in range(count):
        (folder / unicodedata.normalize(on_disk, f"café {number}.png")).write_bytes(encoded(number % 3))
        names.append(unicodedata.normalize(in_file, f"Bücher/café {number}.png"))
    listing = read(rows_in(tmp_path, names))
    assert len(listing) == count and not listing.bad.total


def test_letters_in_several_forms_at_once(tmp_path: Path) -> None:
    """Neither form of the whole name is the one on the disk."""
    composed, apart = (unicodedata.normalize(form, letter) for form, letter in (("NFC", "é"), ("NFD", "ü")))
    (tmp_path / f"{composed}{apart}.png").write_bytes(encoded(0))
    assert not read(rows_in(tmp_path, [unicodedata.normalize("NFC", f"{composed}{apart}.png")])).bad.total


def test_absolute_names_are_read_in_their_folder_and_elsewhere_when_it_is_named(tmp_path: Path) -> None:
    far = tmp_path / "a" / "far"
    names = [str(far / name) for name in save_pictures(far, 3)]
    file = rows_in(tmp_path / "b" / "near", names)
    with pytest.raises(DataError, match="outside of its folder") as caught:
        read(file)
    named = caught.value.hint.partition("--data ")[2]
    assert named == f"{file}:{far}"
    listing = read(named)
    assert len(listing) == 3
    (tmp_path / "link").symlink_to(far, target_is_directory=True)
    assert read(f"{file}:{tmp_path / 'link'}").fingerprint() == listing.fingerprint()
    inside = rows_in(far, names)
    assert read(inside).fingerprint() == listing.fingerprint()


def test_moved_data_is_the_same_data_and_changed_data_is_not(tmp_path: Path) -> None:
    prints = {}
    for place in ("one", "two/three"):
        folder = tmp_path / place
        file = rows_in(folder, [str(folder / "images" / n) for n in save_pictures(folder / "images", 3)])
        (folder / "shards").mkdir()
        write_tar(folder / "shards" / "a.tar", [("x.png", encoded(1)), ("x.txt", b"a")])
        prints[place] = [open_data([p], val_images=1).fingerprint() for p in (file, folder / "shards")]
    assert prints["one"] == prints["two/three"]
    write(tmp_path / "one" / "a.json", [{"image": f"{i:03d}.png", "caption": "ab"[i == 2]} for i in range(3)])
    assert open_data([tmp_path / "one" / "a.json"], val_images=1).fingerprint() != prints["one"][0]


def test_links_to_a_store_elsewhere_are_followed(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "store", 300)
    (tmp_path / "subset" / "images").mkdir(parents=True)
    for name in names:
        (tmp_path / "subset" / "images" / name).symlink_to(tmp_path / "store" / name)
    file = rows_in(tmp_path / "subset", names)
    assert len(read(file)) == len(read(f"{file}:{tmp_path / 'subset' / 'images'}")) == 300
    (tmp_path / "store" / names[7]).unlink()
    listing = read_source(str(file), None, clean)
    assert [(sample.key, sample.kind) for sample in listing.bad.named] == [(names[7], bad.MISSING_FILE)]


@pytest.mark.parametrize("count", [50, 400])
def test_missing_files_are_counted_without_opening_one(count: int, tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", count)
    for name in names[7::20]:
        (tmp_path / "images" / name).unlink()
    file = rows_in(tmp_path, names)
    lost = len(names[7::20])
    with pytest.raises(DataError, match=f"{lost} of {count} samples are bad.*{lost} x missing file"):
        open_data([file])
    data = open_data([file], bounds=Bounds(0.5, 5))
    assert data.images == count and data.listings[0].samples == count  # fetched later, it is the same source
    before = data.fingerprint()
    save_pictures(tmp_path / "images", count)
    assert open_data([file]).fingerprint() == before


# --- tables ---


TABLES = {
    "comma": ("captions.csv", "image,caption\n{0},a cat\n{0},\"a cat, black\"\n", 2),
    "semicolon and BOM": ("captions.csv", "\ufefffile_name;text\r\n{0};a cat\r\n", 1),
    "tab": ("train.tsv", "filepath\ttitle\n{0}\ta cat, a dog; a bird\n", 1),
    "bar": ("results.csv", "image_name| comment_number| comment\n{0}| 0| A \"cat .\n{0}| 1| a dog .\n", 2),
    "flickr8k": ("captions.txt", "image,caption\n{0},a cat .\n", 1),
    "token": ("Flickr8k.token.txt", "{0}#0\tA cat .\n{0}#1\tA dog ; a bird\n", 2),
    "token of flickr30k": ("results_20130124.token", "{0}#0\tA cat .\n", 1),
    "more columns": ("a.csv", "id,split,image_path,width,description\n1,train,{0},40,a cat\n", 1),
    "a spreadsheet's mark": ("a.csv", "sep=;\r\nfile_name;text\r\n{0};a cat\r\n", 1),
    "capitals": ("a.csv", "Image,Caption\n{0},a cat\n", 1),
    "captions with commas, not quoted": ("a.csv", "image,caption\n{0},a cat, black, on a mat\n", 1),
    "quoted header": ("a.csv", '"image","caption"\n"{0}","a ""cat"", here"\n', 1),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["Images", "flickr30k_images", "."])
@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, folder: str, packed: bool, tmp_path: Path) -> None:
    file, text, count = TABLES[name]
    names = save_pictures(tmp_path / folder, 2)
    data = text.format(names[0]).encode()
    (tmp_path / (file + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    for path in (tmp_path / (file + ".gz" * packed), tmp_path):
        listing = read(path)
        assert (listing.format, len(listing), listing.captions) == ("table", 1, count) and not listing.bad.total
        assert said(listing)[0][0].startswith(("a cat", 'a "cat', "a cat"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_metadata_with_any_separator(separator: str, tmp_path: Path) -> None:
    names = save_pictures(tmp_path, 2)
    write(
        tmp_path / "metadata.csv", "".join(f"{a}{separator}{b}\n" for a, b in [("file_name", "text"), (names[1], "b")])
    )
    listing = read(tmp_path)
    assert listing.format == "imagefolder" and said(listing) == [["b"]]


def test_a_line_with_too_many_columns_is_counted(tmp_path: Path) -> None:
    """Which of them the caption's commas made cannot be told when it does not come last."""
    names = save_pictures(tmp_path, 2)
    listing = read(write(tmp_path / "a.csv", f"caption,image\na cat, black,{names[0]}\na dog,{names[1]}\n"))
    assert said(listing) == [["a dog"]] and listing.bad.counts == {bad.BAD_ROW: 1}
    assert said(read(write(tmp_path / "a.csv", f"Image,Re Caption\n{names[0]},x, y\n"), key="Re Caption")) == [["x, y"]]


def test_a_table_without_the_right_columns_says_which_it_has(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    write(tmp_path / "metadata.csv", "picture,words\n000.png,b\n")
    with pytest.raises(DataError, match=r"no file_name.*it holds: picture \(1\), words \(1\)") as caught:
        read(tmp_path)
    assert "separated by" in caught.value.hint and "--caption-key" in caught.value.hint


# --- texts beside pictures, and other keys ---


def test_text_beside_each_picture(tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        for name in save_pictures(tmp_path / shard, 3):
            write((tmp_path / shard / name).with_suffix(".txt"), f"A {shard}.")
            write(
                (tmp_path / shard / name).with_suffix(".json"), {"caption": "json", "re_caption": "again", "key": "1"}
            )
    write(tmp_path / "00000_stats.json", {"count": 3})
    write(tmp_path / "dataset_infos.json", {})
    (tmp_path / "00001" / "001.txt").unlink()
    (tmp_path / "00001" / "loop").symlink_to(tmp_path, target_is_directory=True)
    listing = read(tmp_path)
    assert listing.format == "files" and said(listing) == [["a 00000"]] * 3 + [["a 00001"], ["json"], ["a 00001"]]
    assert listing.keys[0] == "00000/000.png"
    assert said(read(tmp_path, key="re_caption")) == [["again"]] * 6
    (tmp_path / "00001" / "001.json").unlink()
    listing = read(tmp_path)
    assert len(listing) == 5 and listing.bad.counts == {bad.MISSING_TEXT: 1}


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_the_text_of_one_picture_is_no_list_of_all(suffix: str, tmp_path: Path) -> None:
    (name,) = save_pictures(tmp_path, 1)
    write((tmp_path / name).with_suffix(suffix), "image,caption" if suffix == ".txt" else {"caption": "image,caption"})
    assert said(read(tmp_path)) == [["image,caption"]]


def test_the_captions_key_may_be_named(tmp_path: Path) -> None:
    names = save_pictures(tmp_path / "images", 2)
    rows = [{"image": n, "caption": "plain", "re_caption": f"re {n}"} for n in names]
    assert said(read(write(tmp_path / "a.json", rows), key="re_caption"))[0] == ["re 000 png"]
    table = write(tmp_path / "a.csv", f"image,caption,re_caption\n{names[0]},plain,other\n")
    assert said(read(f"{table}:{tmp_path / 'images'}", key="re_caption")) == [["other"]]
    pictures = {"images": [{"id": 1, "file_name": names[0]}], "annotations": [{"image_id": 1, "raw": "x"}]}
    assert said(read(write(tmp_path / "b.json", pictures), key="raw")) == [["x"]]
    with pytest.raises(DataError, match="with the keys 'image', 'caption'") as caught:
        read(write(tmp_path / "c.json", [{"image": n, "caption": "a"} for n in names]), "karpathy", "nope")
    assert "--caption-key" in caught.value.hint

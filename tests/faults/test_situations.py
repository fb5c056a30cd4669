"""Data that people really had trouble with, by the command line: what is taken, and what is said of the rest."""

import io
import json
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vpgtrans_core.cli.main import main
from vpgtrans_core.data.images import decode

COLOURS = ("red", "blue", "green", "yellow")


def draw(number: int) -> tuple[Image.Image, str]:
    """A small picture and its caption."""
    picture = Image.new("RGB", (64, 48), (200, 200, 200))
    ImageDraw.Draw(picture).ellipse([10, 8, 40, 40], fill=COLOURS[number % 4])
    return picture, f"a {COLOURS[number % 4]} circle"


def rows(root: Path, folder: str = "images", count: int = 24, **saved: object) -> list[dict[str, str]]:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw(number)[0].save(root / folder / f"{number:03d}.jpg", **saved)
    return [{"image": f"{number:03d}.jpg", "caption": draw(number)[1]} for number in range(count)]


def written(path: Path, values: object) -> Path:
    path.write_text(json.dumps(values))
    return path


def shard(root: Path, members: Callable[[int], dict[str, bytes]]) -> Path:
    with tarfile.open(root / "00000.tar", "w") as tar:
        for number in range(40):
            for name, data in members(number).items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return root / "00000.tar"


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    draw(number)[0].save(out, "JPEG")
    return out.getvalue()


def links(root: Path) -> Path:
    listed = rows(root, "store")
    (root / "subset/images").mkdir(parents=True)
    for row in listed:
        os.symlink(root / "store" / row["image"], root / "subset/images" / row["image"])
    return written(root / "subset/captions.json", listed)


def dotted(root: Path) -> Path:
    key = "images17/image{:03d}"
    return shard(root, lambda n: {f"{key.format(n)}.left.JPG": jpeg(n), f"{key.format(n)}.json": b'{"caption": "a b"}'})


def other_fields(root: Path) -> Path:
    return shard(root, lambda n: {f"{n:06d}.img": jpeg(n), f"{n:06d}.cap": b"a circle"})


def other_key(root: Path) -> Path:
    note = {"caption": None, "re_caption": "a circle", "url": "https://example.org/x.jpg", "status": "success"}
    return shard(root, lambda n: {f"{n:09d}.jpg": jpeg(n), f"{n:09d}.json": json.dumps(note).encode()})


def karpathys_own(root: Path) -> Path:
    images = [
        {"filename": row["image"], "filepath": "val2014", "split": "train" if number < 20 else "test", "imgid": number}
        | {"sentences": [{"raw": row["caption"] + ".", "tokens": []}] * 2}
        for number, row in enumerate(rows(root, "images/val2014"))
    ]
    return written(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def ids_as_text(root: Path) -> Path:
    listed = list(enumerate(rows(root)))
    images = [{"id": number, "file_name": row["image"]} for number, row in listed]
    notes = [{"id": number, "image_id": str(number), "caption": row["caption"]} for number, row in listed]
    return written(root / "captions.json", {"images": images, "annotations": notes})


def lines_in_json(root: Path) -> Path:
    (root / "train.json").write_text("".join(json.dumps(row) + "\n" for row in rows(root)))
    return root / "train.json"


def cut_exif(root: Path) -> Path:
    """A directory of tags that promises more than is there."""
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI4s", 5, 0x0112, 3, 1, b"\1\0\0\0")
    return written(root / "captions.json", rows(root, exif=exif + struct.pack("<HHII", 0x011A, 5, 1, 60000)))


def lists_of_images(root: Path) -> Path:
    said = [{"from": "human", "value": "<image>\nDescribe the image."}, {"from": "gpt", "value": "a circle"}]
    return written(root / "train.json", [{"image": [row["image"]], "conversations": said} for row in rows(root)])


def semicolons(root: Path) -> Path:
    listed = rows(root, ".")
    text = "file_name;text\r\n" + "".join(f"{row['image']};{row['caption']}\r\n" for row in listed)
    (root / "metadata.csv").write_text(text, encoding="utf-8-sig", newline="")
    return root


def flickr8k(root: Path) -> Path:
    text = "".join(f'{row["image"]},{row["caption"]} .\n{row["image"]},"a , b"\n' for row in rows(root, "Images"))
    (root / "captions.txt").write_text("image,caption\n" + text)
    return root


def flickr30k(root: Path) -> Path:
    text = "".join(f"{row['image']}| 0| {row['caption']} .\n" for row in rows(root, "."))
    (root / "results.csv").write_text("image_name| comment_number| comment\n" + text)
    return root / "results.csv"


TAKEN = {
    links: "24 images, 24 captions",
    dotted: "40 images, 40 captions",
    karpathys_own: "20 images, 40 captions",
    ids_as_text: "24 images, 24 captions",
    lines_in_json: "24 images, 24 captions",
    cut_exif: "24 images, 24 captions",
    lists_of_images: "24 images, 24 captions",
    semicolons: "24 images, 24 captions",
    flickr8k: "24 images, 48 captions",
    flickr30k: "24 images, 24 captions",
}
REFUSED = {
    other_fields: "it holds: img (40), cap (40)",
    other_key: "its json holds caption (null), re_caption, url, status",
}


def checked(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(path), *more])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


@pytest.mark.parametrize("make", TAKEN, ids=lambda make: make.__name__)
def test_good_data_is_taken(make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(make(tmp_path), capsys)
    assert code == 0 and TAKEN[make] in said and "skipped" not in said, said


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_there_is_said(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(make(tmp_path), capsys)
    assert code == 2 and REFUSED[make] in said and "--caption-key" in said, said


def test_another_key_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(other_key(tmp_path), capsys, "--caption-key", "re_caption")
    assert code == 0 and "40 images, 40 captions" in said, said


def test_deep_greys_are_shown_as_they_are() -> None:
    """Not white, as clipping at 255 would make them."""
    grey, out = np.asarray(draw(0)[0].convert("L")).astype(np.uint16) * 200, io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    seen = np.asarray(decode(out.getvalue()))[..., 0]
    assert len(np.unique(seen)) == len(np.unique(grey)) == 2
    assert np.abs(seen - grey / 257).max() < 1


def test_pixels_beside_a_cut_exif_are_whole(tmp_path: Path) -> None:
    cut_exif(tmp_path)
    picture = decode((tmp_path / "images/003.jpg").read_bytes())
    assert picture.size == (64, 48) and picture.getpixel((25, 24))[0] > 220

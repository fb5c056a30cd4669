"""Small valid data of each format, written into a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.conftest import encoded, save_pictures, shard_members, write_tar
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.readers.detect import read_source


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

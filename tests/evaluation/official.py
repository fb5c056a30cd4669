"""Small files in the forms in which the datasets are published, with pictures named as theirs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vpgtrans_core.miniature.data import items

COUNT = 6
KINDS = ("yes/no", "number", "other")


def _pictures(folder: Path, names: list[str]) -> None:
    for name, item in zip(names, items("val", len(names)), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        item.image.save(path, "JPEG", quality=95)


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(folder: Path, count: int = COUNT) -> Path:
    """COCO's form, as of ``coco_karpathy_test_gt.json``; one image more without captions."""
    names = [f"COCO_val2014_{n:012d}.jpg" for n in range(count + 1)]
    _pictures(folder / "images", names)
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    captions = [
        {"id": 10 * n + k, "image_id": n, "caption": caption}
        for n, item in enumerate(items("val", count))
        for k, caption in enumerate(item.captions)
    ]
    return _write(folder / "captions.json", {"images": images, "annotations": captions})


def karpathy(folder: Path) -> Path:
    """Karpathy's ``dataset_coco.json``: two images of the test split, one of another."""
    _pictures(folder / "val2014", ["a_1.jpg", "a_2.jpg", "a_3.jpg"])
    images = [
        {
            "filepath": "val2014",
            "filename": f"a_{n}.jpg",
            "cocoid": n,
            "split": split,
            "sentences": [{"raw": "A dog ."}],
        }
        for n, split in ((1, "test"), (2, "train"), (3, "test"))
    ]
    return _write(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})


def lavis(folder: Path) -> Path:
    """LAVIS's ``coco_karpathy_test.json``."""
    names = [f"val2014/COCO_val2014_{n:012d}.jpg" for n in (391895, 60623)]
    _pictures(folder, names)
    return _write(folder / "coco_karpathy_test.json", [{"image": n, "caption": ["A dog.", "Dogs."]} for n in names])


def nocaps(folder: Path) -> Path:
    """``nocaps_val_4500_captions.json``: two images of each domain."""
    names = [f"{n:016x}.jpg" for n in range(COUNT)]
    _pictures(folder / "images", names)
    domains = ("in-domain", "near-domain", "out-domain")
    images = [
        {"id": n, "file_name": name, "open_images_id": name[:-4], "domain": domains[n % 3]}
        for n, name in enumerate(names)
    ]
    captions = [
        {"id": 10 * n + k, "image_id": n, "caption": caption}
        for n, item in enumerate(items("val", COUNT))
        for k, caption in enumerate(item.captions)
    ]
    return _write(folder / "nocaps_val.json", {"info": {}, "images": images, "annotations": captions})


def vqa(folder: Path, *, raw: bool = False) -> tuple[Path, Path]:
    """Questions and annotations as of VQAv2; with `raw` as of OK-VQA."""
    _pictures(folder / "val2014", [f"COCO_val2014_{n:012d}.jpg" for n in range(COUNT)])
    questions, annotations = [], []
    for n, item in enumerate(items("val", COUNT)):
        for k, asked in enumerate(item.questions[:3]):
            words = " ".join(word.text for word in asked.words)
            answers: list[dict[str, Any]] = [{"answer_id": i, "answer": asked.answer.text} for i in range(1, 11)]
            if raw:
                answers = [answer | {"raw_answer": answer["answer"]} for answer in answers]
            questions.append({"image_id": n, "question_id": 10 * n + k, "question": f"{words}?"})
            annotations.append({"image_id": n, "question_id": 10 * n + k, "answer_type": KINDS[k], "answers": answers})
    head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    return (
        _write(
            folder / "OpenEnded_mscoco_val2014_questions.json",
            head | {"task_type": "Open-Ended", "questions": questions},
        ),
        _write(folder / "mscoco_val2014_annotations.json", head | {"annotations": annotations}),
    )


def gqa(folder: Path) -> Path:
    """``testdev_balanced_questions.json``."""
    _pictures(folder / "images", [f"n{n}.jpg" for n in range(COUNT)])
    rows = {
        f"2{n}": {"imageId": f"n{n}", "question": "What is it?", "answer": "ball", "fullAnswer": "It is a ball."}
        for n in range(COUNT)
    }
    return _write(folder / "testdev.json", rows)

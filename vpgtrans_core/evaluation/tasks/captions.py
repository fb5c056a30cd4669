"""Caption files: images with the captions that people wrote of them, in the forms in which they are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.evaluation.files import DataFile, has_fields, images_of, refuse, rows_of
from vpgtrans_core.evaluation.task import EvalSample, Id


@dataclass
class Captioned:
    """One image of a caption file."""

    id: Id
    name: str
    captions: list[str] = field(default_factory=list)
    group: str = ""


def is_coco(content: Any) -> bool:
    """``{"images": [{"id", "file_name"}], "annotations": ...}``; the annotations may be missing."""
    return has_fields(rows_of(content, "images"), "id", "file_name")


def read_coco(file: DataFile, *, scored: bool, group: str = "") -> list[Captioned]:
    """Read COCO's form. `group` names the images' field that tells their group.

    Raises:
        DataError: rows that lack a field, captions of images that are not there, or no captions at all.
    """
    problems: list[str] = []
    images: dict[Any, Captioned] = {}
    for number, row in enumerate(rows_of(file.content, "images"), 1):
        lacking = [name for name in ("id", "file_name", *filter(None, [group])) if _absent(row, name)]
        if lacking:
            problems.append(f"{file.path}: image {number} has no {' and no '.join(lacking)}")
        elif row["id"] in images:
            problems.append(f"{file.path}: the image id {row['id']} is there twice")
        else:
            images[row["id"]] = Captioned(row["id"], row["file_name"], group=str(row[group]) if group else "")
    for number, row in enumerate(rows_of(file.content, "annotations"), 1):
        if _absent(row, "image_id") or not isinstance(row.get("caption"), str):
            problems.append(f"{file.path}: annotation {number} has no image_id or no caption")
        elif row["image_id"] not in images:
            problems.append(f"{file.path}: annotation {number} is of the image {row['image_id']}, which is not there")
        else:
            images[row["image_id"]].captions.append(row["caption"])
    if not problems and scored and not any(image.captions for image in images.values()):
        problems.append(f"{file.path} has images and no captions to compare with")
    refuse(problems, "take the file as it was published; --no-scores asks without comparing")
    return [image for image in images.values() if image.captions or not scored]


def is_karpathy(content: Any) -> bool:
    """Karpathy's ``dataset_coco.json``."""
    return has_fields(rows_of(content, "images"), "sentences", "split", "filename")


def read_karpathy(file: DataFile, split: str = "test") -> list[Captioned]:
    """Read one split of Karpathy's file.

    Raises:
        DataError: rows that lack a field, or the split is empty.
    """
    problems, images = [], []
    for number, row in enumerate(rows_of(file.content, "images"), 1):
        try:
            if row["split"] == split:
                name = str(Path(row.get("filepath", "")) / row["filename"])
                images.append(
                    Captioned(row.get("cocoid", row.get("imgid")), name, [s["raw"] for s in row["sentences"]])
                )
        except (KeyError, TypeError) as error:
            problems.append(f"{file.path}: image {number} has no {error}")
    if not images and not problems:
        problems.append(f"{file.path} has no images of the split {split!r}")
    refuse(problems, "take the file as it was published")
    return images


def is_lavis(content: Any) -> bool:
    """LAVIS's ``coco_karpathy_test.json``: ``[{"image", "caption": [...]}]``."""
    return isinstance(content, list) and has_fields(content, "image", "caption")


def read_lavis(file: DataFile) -> list[Captioned]:
    """Read LAVIS's list. An image's id is the number at the end of its file name, as in COCO.

    Raises:
        DataError: rows that lack a field, or two images of one id.
    """
    problems: list[str] = []
    images: dict[Id, Captioned] = {}
    for number, row in enumerate(file.content, 1):
        if _absent(row, "image") or _absent(row, "caption"):
            problems.append(f"{file.path}: row {number} has no image or no caption")
            continue
        end = Path(row["image"]).stem.rpartition("_")[2]
        known = int(end) if end.isdigit() else row["image"]
        captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        image = images.setdefault(known, Captioned(known, row["image"]))
        if image.name == row["image"]:
            image.captions.extend(map(str, captions))
        else:
            problems.append(f"{file.path}: row {number} has the id of another image, {image.name}: {known}")
    refuse(problems, "take the file as it was published")
    return list(images.values())


def samples_of(file: DataFile, captioned: Sequence[Captioned]) -> list[EvalSample]:
    """The samples of captioned images.

    Raises:
        DataError: images are missing.
    """
    refs = images_of(file, [image.name for image in captioned])
    return [
        EvalSample(image.id, ref, references=tuple(image.captions), group=image.group)
        for image, ref in zip(captioned, refs, strict=True)
    ]


def _absent(row: Any, name: str) -> bool:
    return not isinstance(row, dict) or row.get(name) is None

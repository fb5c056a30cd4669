"""Caption files: images with the captions that people wrote of them, in the forms in which they are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpgtrans_core.evaluation.files import DataFile, has_fields, images_of, lacking, place_of, refuse, rows_of
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
    images: dict[Id, Captioned] = {}
    for number, row in enumerate(rows_of(file.content, "images"), 1):
        if absent := lacking(row, ids=("id",), texts=("file_name", *filter(None, [group]))):
            problems.append(f"{file.path}: image {number} has no {' and no '.join(absent)}")
        elif row["id"] in images:
            problems.append(f"{file.path}: the image id {row['id']!r} is there twice")
        else:
            images[row["id"]] = Captioned(row["id"], row["file_name"], group=row[group] if group else "")
    for number, row in enumerate(rows_of(file.content, "annotations"), 1):
        if absent := lacking(row, ids=("image_id",), said=("caption",)):
            problems.append(f"{file.path}: annotation {number} has no {' and no '.join(absent)}")
        elif row["image_id"] not in images:
            problems.append(f"{file.path}: annotation {number} is of the image {row['image_id']!r}, which is not there")
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
    problems: list[str] = []
    images: dict[Id, Captioned] = {}
    for number, row in enumerate(rows_of(file.content, "images"), 1):
        if lacking(row, texts=("split",)):
            problems.append(f"{file.path}: image {number} has no split")
            continue
        if row["split"] != split:
            continue
        key = "cocoid" if "cocoid" in row else "imgid"
        said = rows_of(row, "sentences")
        absent = lacking(row, ids=(key,), texts=("filename",))
        absent += ["sentences with raw texts"] if not said or any(lacking(s, said=("raw",)) for s in said) else []
        if absent:
            problems.append(f"{file.path}: image {number} has no {' and no '.join(absent)}")
        elif row[key] in images:
            problems.append(f"{file.path}: the {key} {row[key]!r} is there twice")
        else:
            name = str(Path(str(row.get("filepath", "")), row["filename"]))
            images[row[key]] = Captioned(row[key], name, [sentence["raw"] for sentence in said])
    if not images and not problems:
        problems.append(f"{file.path} has no images of the split {split!r}")
    refuse(problems, "take the file as it was published")
    return list(images.values())


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
        said = row.get("caption") if isinstance(row, dict) else None
        captions: list[Any] = said if isinstance(said, list) else [said]
        if lacking(row, texts=("image",)) or not captions or not all(isinstance(one, str) for one in captions):
            problems.append(f"{file.path}: {place_of(number, file.lines)} has no image or no caption")
            continue
        end = Path(row["image"]).stem.rpartition("_")[2]
        known = int(end) if end.isdecimal() else row["image"]
        image = images.setdefault(known, Captioned(known, row["image"]))
        if image.name == row["image"]:
            image.captions.extend(captions)
        else:
            where = f"{file.path}: {place_of(number, file.lines)}"
            problems.append(f"{where} has the id of another image, {image.name}: {known}")
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

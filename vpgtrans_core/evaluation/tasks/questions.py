"""Questions and answers in the form of the VQA datasets: two files, joined by the questions' ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vpgtrans_core.data.listing import FileImage
from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import DataFile, DataFiles, has_fields, images_of, lacking, refuse, rows_of
from vpgtrans_core.evaluation.task import EvalSample, Id, Task
from vpgtrans_core.evaluation.tasks.captions import is_coco

QUESTIONS = 'a file of questions, {"questions": [{"question_id", "image_id", "question"}]}'
ANSWERS = 'a file of answers, {"annotations": [{"question_id", "answers": [{"answer"}]}]}'


class VQATask(Task):
    """The questions of one dataset in VQA's form.

    Images are named as COCO's are (``COCO_val2014_000000000042.jpg``), by the questions' ``data_subtype``; a third
    file with a list ``images`` in COCO's form names them otherwise.
    """

    id_key, answer_key = "question_id", "answer"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        asked = files.take(QUESTIONS, is_questions)
        answered = files.take(ANSWERS, is_answers) if scored else files.take_if_there(is_answers)
        named = files.take_if_there(is_coco)
        files.end()
        if answered is not None:
            self.check_answers(answered)
        questions = read_questions(asked)
        answers = read_answers(answered) if answered is not None else {}
        if answered is not None and scored:
            without = [row["question_id"] for row in questions if row["question_id"] not in answers]
            problems = [f"the question {i} of {asked.path} has no answers in {answered.path}" for i in without]
            refuse(problems, "give questions and answers of the same dataset and split")
        rooted = next((file for file in (asked, named) if file is not None and file.root), named or asked)
        refs = _images(rooted, image_names(asked, questions, named), listed=named is not None)
        return [
            EvalSample(row["question_id"], ref, row["question"], *answers.get(row["question_id"], ()))
            for row, ref in zip(questions, refs, strict=True)
        ]

    def check_answers(self, file: DataFile) -> None:
        """Refuse the answers of another dataset.

        Raises:
            DataError: they are of another one.
        """


def is_questions(content: Any) -> bool:
    return has_fields(rows_of(content, "questions"), "question_id", "image_id", "question")


def is_answers(content: Any) -> bool:
    return has_fields(rows_of(content, "annotations"), "question_id", "answers")


def read_questions(file: DataFile) -> list[dict[str, Any]]:
    """All questions.

    Raises:
        DataError: one lacks a field, or an id is there twice.
    """
    problems, seen = [], set()
    rows = rows_of(file.content, "questions")
    for number, row in enumerate(rows, 1):
        if absent := lacking(row, ids=("question_id", "image_id"), texts=("question",)):
            problems.append(f"{file.path}: question {number} has no {' and no '.join(absent)}")
        elif row["question_id"] in seen:
            problems.append(f"{file.path}: the question_id {row['question_id']!r} is there twice")
        else:
            seen.add(row["question_id"])
    refuse(problems, "take the file as it was published")
    return rows


def read_answers(file: DataFile) -> dict[Id, tuple[tuple[str, ...], str]]:
    """The annotators' answers to each question, and their type (yes/no, number, other; empty where the file has none).

    Raises:
        DataError: a row lacks its question_id or has no answers, or a question is answered twice.
    """
    problems: list[str] = []
    answers: dict[Id, tuple[tuple[str, ...], str]] = {}
    for number, row in enumerate(rows_of(file.content, "annotations"), 1):
        if lacking(row, ids=("question_id",)):
            problems.append(f"{file.path}: annotation {number} has no question_id")
            continue
        rows = rows_of(row, "answers")
        if not rows or any(lacking(answer, said=("answer",)) for answer in rows):
            problems.append(f"{file.path}: annotation {number} has no answers, or one without a text")
        elif row["question_id"] in answers:
            problems.append(f"{file.path}: the question_id {row['question_id']!r} is answered twice")
        else:
            given = tuple(answer["answer"] for answer in rows)
            answers[row["question_id"]] = given, str(row.get("answer_type") or "")
    refuse(problems, "take the file as it was published")
    return answers


def image_names(file: DataFile, questions: Sequence[dict[str, Any]], named: DataFile | None) -> list[str]:
    """The file name of each question's image.

    Raises:
        DataError: the list of images lacks some.
    """
    if named is None:
        subtype = str(file.content.get("data_subtype") or "").replace("-dev", "")
        return [_coco_name(subtype, row["image_id"]) for row in questions]
    rows = rows_of(named.content, "images")
    refuse(
        [
            f"{named.path}: image {number} has no {' and no '.join(absent)}"
            for number, row in enumerate(rows, 1)
            if (absent := lacking(row, ids=("id",), texts=("file_name",)))
        ]
    )
    known = {row["id"]: row["file_name"] for row in rows}
    without = dict.fromkeys(row["image_id"] for row in questions if row["image_id"] not in known)
    hint = "give the list of these images, or leave it out if they are named as COCO's are"
    refuse([f"the image {i!r}, of which {file.path} asks, is not in {named.path}" for i in without], hint)
    return [known[row["image_id"]] for row in questions]


def _images(file: DataFile, names: list[str], *, listed: bool) -> list[FileImage]:
    try:
        return images_of(file, names)
    except DataError as error:
        if listed:
            raise
        also = "pictures with other names need a third --data, a file with COCO's list of images (id, file_name)"
        raise DataError(error.message, f"{error.hint}; {also}") from error


def _coco_name(subtype: str, image_id: Any) -> str:
    return f"COCO_{subtype}_{int(image_id):012d}.jpg" if subtype and str(image_id).isdecimal() else f"{image_id}.jpg"

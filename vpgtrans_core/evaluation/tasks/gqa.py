"""GQA: questions about scenes, made of scene graphs."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.evaluation.files import DataFiles, images_of, refuse
from vpgtrans_core.evaluation.task import EvalSample, Task


class GQA(Task):
    """Takes ``testdev_balanced_questions.json``; images are ``IMAGE_ID.jpg``."""

    id_key, answer_key = "questionId", "prediction"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        file = files.take('a file of questions, {"QUESTION_ID": {"imageId", "question", "answer"}}', is_gqa)
        files.end()
        needed = ("imageId", "question", "answer") if scored else ("imageId", "question")
        problems = [
            f"{file.path}: the question {key} has no {' and no '.join(lacking)}"
            for key, row in file.content.items()
            if (lacking := [name for name in needed if not isinstance(row, dict) or not row.get(name)])
        ]
        refuse(problems, "take the file as it was published; --no-scores asks without comparing")
        refs = images_of(file, [f"{row['imageId']}.jpg" for row in file.content.values()])
        return [
            EvalSample(key, ref, row["question"], (row["answer"],) if "answer" in row else ())
            for (key, row), ref in zip(file.content.items(), refs, strict=True)
        ]


def is_gqa(content: Any) -> bool:
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and "imageId" in first and "question" in first

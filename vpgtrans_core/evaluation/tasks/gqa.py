"""GQA: questions about scenes, made of scene graphs."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.evaluation.files import DataFiles, images_of, is_text, lacking, refuse
from vpgtrans_core.evaluation.task import EvalSample, Task


class GQA(Task):
    """Takes ``testdev_balanced_questions.json``; images are ``IMAGE_ID.jpg``."""

    id_key, answer_key = "questionId", "prediction"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        file = files.take('a file of questions, {"QUESTION_ID": {"imageId", "question", "answer"}}', is_gqa)
        files.end()
        texts = ("question", "answer") if scored else ("question",)
        problems = [
            f"{file.path}: the question {key} has no {' and no '.join(absent)}"
            for key, row in file.content.items()
            if (absent := lacking(row, ids=("imageId",), texts=texts))
        ]
        refuse(problems, "take the file as it was published; --no-scores asks without comparing")
        refs = images_of(file, [f"{row['imageId']}.jpg" for row in file.content.values()])
        return [
            EvalSample(key, ref, row["question"], (row["answer"],) if is_text(row.get("answer")) else ())
            for (key, row), ref in zip(file.content.items(), refs, strict=True)
        ]


def is_gqa(content: Any) -> bool:
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and "imageId" in first and "question" in first

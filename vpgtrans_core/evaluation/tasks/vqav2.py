"""VQAv2."""

from __future__ import annotations

from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import DataFile, has_fields, rows_of
from vpgtrans_core.evaluation.tasks.questions import VQATask


class VQAv2(VQATask):
    """Takes ``v2_OpenEnded_mscoco_val2014_questions.json`` and ``v2_mscoco_val2014_annotations.json``; with
    ``--no-scores`` the questions of a test split alone."""

    def check_answers(self, file: DataFile) -> None:
        if has_raw_answers(file):
            raise DataError(f"{file.path} has the answers of OK-VQA", "use --task okvqa, or give those of VQAv2")


def has_raw_answers(file: DataFile) -> bool:
    """Whether answers come with their raw form, as OK-VQA's do and VQAv2's do not."""
    return has_fields(rows_of(rows_of(file.content, "annotations")[0], "answers"), "raw_answer")

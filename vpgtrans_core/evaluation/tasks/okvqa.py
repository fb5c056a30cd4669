"""OK-VQA: questions whose answers need knowledge from outside of the picture."""

from __future__ import annotations

from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import DataFile
from vpgtrans_core.evaluation.tasks.questions import VQATask
from vpgtrans_core.evaluation.tasks.vqav2 import has_raw_answers


class OKVQA(VQATask):
    """Takes ``OpenEnded_mscoco_val2014_questions.json`` and ``mscoco_val2014_annotations.json`` of OK-VQA 1.1.

    Answers are compared with the annotations' ``answer``, in which OK-VQA has reduced words to their stems.
    """

    def check_answers(self, file: DataFile) -> None:
        if not has_raw_answers(file):
            raise DataError(
                f"{file.path} has no raw answers: they are not those of OK-VQA", "use --task vqav2, or give OK-VQA's"
            )

"""COCO Caption on Karpathy's test split, and any caption file in COCO's form."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import DataFiles, rows_of
from vpgtrans_core.evaluation.task import EvalSample, Task
from vpgtrans_core.evaluation.tasks import captions


class CocoCaption(Task):
    """One caption an image. Takes ``dataset_coco.json`` (its test split), LAVIS's ``coco_karpathy_test.json``, or a
    file in COCO's own form, such as ``coco_karpathy_test_gt.json``; all of the latter two."""

    id_key, answer_key = "image_id", "caption"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        file = files.take("a caption file", _fits)
        files.end()
        if captions.is_karpathy(file.content):
            return captions.samples_of(file, captions.read_karpathy(file))
        if captions.is_lavis(file.content):
            return captions.samples_of(file, captions.read_lavis(file))
        if any("domain" in row for row in rows_of(file.content, "images")[:1]):
            raise DataError(f"{file.path} is a file of NoCaps: its images have domains", "use --task nocaps")
        return captions.samples_of(file, captions.read_coco(file, scored=scored))


def _fits(content: Any) -> bool:
    return captions.is_karpathy(content) or captions.is_lavis(content) or captions.is_coco(content)

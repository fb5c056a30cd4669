"""NoCaps: captions of objects that COCO does not show, scored by domain."""

from __future__ import annotations

from vpgtrans_core.errors import DataError
from vpgtrans_core.evaluation.files import DataFiles, has_fields, rows_of
from vpgtrans_core.evaluation.task import EvalSample, Task
from vpgtrans_core.evaluation.tasks import captions


class NoCaps(Task):
    """Takes ``nocaps_val_4500_captions.json``; with ``--no-scores`` ``nocaps_test_image_info.json`` too.

    Its groups are the domains. Each is scored by itself, CIDEr's document frequencies included, as the published files
    by domain are.
    """

    id_key, answer_key = "image_id", "caption"

    def read(self, files: DataFiles, *, scored: bool) -> list[EvalSample]:
        file = files.take("a caption file with domains", captions.is_coco)
        files.end()
        has_domains = has_fields(rows_of(file.content, "images"), "domain")
        if scored and not has_domains:
            raise DataError(f"{file.path} is not a file of NoCaps: its images have no domain", "use --task coco")
        group = "domain" if has_domains else ""
        return captions.samples_of(file, captions.read_coco(file, scored=scored, group=group))

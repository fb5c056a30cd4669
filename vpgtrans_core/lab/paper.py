"""The paper's table 3. No torch."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml

TASKS = ("COCO captions", "NoCaps", "VQAv2", "GQA", "OK-VQA")
TABLE = "paper_speedups.yaml"


@cache
def table() -> dict[str, list[str]]:
    """The speed-ups by row, as text, in the order of `TASKS`; a dash where the paper gives none."""
    text = resources.files("vpgtrans_core.lab").joinpath(TABLE).read_text(encoding="utf-8")
    return {row: ["–" if v is None else f"{v:g}" for v in values] for row, values in yaml.safe_load(text).items()}

"""Registers vpgt's models with lmms-eval: the entry point of its group ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model ``vpgt``, whose class is imported on use."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vpgt", simple_class_path="vpgtrans_core.evaluation.lmms_eval.VpgtModel")

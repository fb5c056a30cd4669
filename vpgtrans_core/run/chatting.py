"""The chat templates of a run: of each stage, and of the model that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.run.spec import RunSpec
from vpgtrans_core.settings import stage_settings
from vpgtrans_core.templates import ChatTemplate, choose_template, usable_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_stage(stages: Sequence[Stage]) -> Stage | None:
    """The last stage that learns conversations; its template is that of the finished model."""
    return next((stage for stage in reversed(stages) if stage.texts == "instruction"), None)


def stage_template(spec: RunSpec, stage: Stage | None, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The chat template of a stage, or of a model that learns no conversations; only a stage that learns some must have
    one.

    Raises:
        ModelError: it has none that can be used.
    """
    name = stage_settings(spec.settings, stage).template if stage else spec.settings.template
    folder = spec.source.folder if spec.settings.method == "tune" else None
    choose = choose_template if stage is not None and stage.texts == "instruction" else usable_template
    return choose(name, tokenizer, folder)

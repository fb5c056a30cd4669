"""What kind of task an evaluation task is, by the metric that counts. No torch."""

from __future__ import annotations

from vpgtrans_core.registry import default_registry

CAPTION_METRICS = ("cider", "bleu4", "rouge-l", "meteor", "spice")


def is_caption_task(task: str) -> bool:
    """Whether the task asks for captions; otherwise it asks questions."""
    return default_registry().eval_task(task).metrics[0] in CAPTION_METRICS

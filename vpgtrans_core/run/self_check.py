"""What the new model says of a few images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpgtrans_core.llm.adapter import GenerateOptions

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.vlm.model import VLModel

IMAGES = 8
FREE = GenerateOptions(num_beams=1, min_new_tokens=0)
"""No minimum length, so that a model that generates nothing is noticed."""


def self_check(model: VLModel, feed: Feed) -> list[dict[str, Any]]:
    """Generate for a few held-out images (training images when none are held out).

    Returns:
        for each its name (``image``), the generated text (``said``) and one of its captions (``caption``).
    """
    examples = []
    for batch, keys, captions in feed.examples(IMAGES):
        visual = batch.visual.to(model.device)
        texts = model.generate(visual, batch.kind, feed.prompts(batch), FREE, batch.images)
        examples += [
            {"image": key, "said": text, "caption": caption}
            for key, text, caption in zip(keys, texts, captions, strict=True)
        ]
    return examples

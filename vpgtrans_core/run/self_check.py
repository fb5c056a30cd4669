"""A check of the new model's captions: empty or constant output gives a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpgtrans_core.llm.adapter import GenerateOptions

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.vlm.model import VLModel

IMAGES = 8
TRAIN_LONGER = "it has not learned to see yet; train longer"
AT_CHANCE = "the LLM itself predicts captions at chance, which no training of a VPG changes; check its weights"
FREE = GenerateOptions(num_beams=1, min_new_tokens=0)
"""No minimum length, so that a model that generates nothing is noticed."""


def self_check(model: VLModel, feed: Feed, *, llm_at_chance: bool = False) -> dict[str, Any]:
    """Generate for a few held-out images (training images when none are held out).

    Returns:
        ``examples`` (image, generated text, one of the image's captions) and, if something is wrong, ``warning``.
    """
    examples = []
    for batch, keys, captions in feed.examples(IMAGES):
        visual = batch.visual.to(model.device)
        texts = model.generate(visual, batch.kind, feed.prompts(batch), FREE, batch.images)
        examples += [
            {"image": key, "said": text, "caption": caption}
            for key, text, caption in zip(keys, texts, captions, strict=True)
        ]
    result: dict[str, Any] = {"examples": examples}
    advice = AT_CHANCE if llm_at_chance else TRAIN_LONGER
    if warning := judge([e["said"] for e in examples], advice):
        result["warning"] = warning
    return result


def judge(texts: list[str], advice: str = TRAIN_LONGER) -> str | None:
    """The warning about generated texts that are empty or all alike, or None."""
    if not texts:
        return None
    empty = sum(not text.strip() for text in texts)
    if empty > len(texts) / 2:
        return f"the new model generates no text for {empty} of {len(texts)} images: {advice}"
    spoken = [text.strip() for text in texts if text.strip()]
    if len(spoken) > 2 and len(set(spoken)) == 1:
        silent = f", and none for {empty}" if empty else ""
        return f"the new model generates the same text for {len(spoken)} images ({spoken[0]!r}){silent}: {advice}"
    return None

"""A look at what the new model says, before anyone relies on it: empty or constant output is said aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpgtrans_core.llm.adapter import GenerateOptions

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.vlm.model import VLModel

IMAGES = 8
TRAIN_LONGER = "it has not learned to see yet, train longer"
AT_CHANCE = "the LLM itself predicts captions at chance, which no training of a VPG changes; check its weights"
FREE = GenerateOptions(num_beams=1, min_new_tokens=0)
"""No least length: a model that ends at once must be seen to do so."""


def self_check(model: VLModel, feed: Feed, *, llm_at_chance: bool = False) -> dict[str, Any]:
    """Generate for a few held-out images (training images when none are held out).

    Returns:
        ``examples`` (image, what the model says, one of its captions) and, if something is wrong, ``warning``.
    """
    examples = []
    for batch, keys, captions in feed.examples(IMAGES):
        visual = batch.visual.to(model.device)
        said = model.generate(visual, batch.kind, feed.prompts(batch), FREE, batch.images)
        examples += [
            {"image": key, "said": text, "caption": caption}
            for key, text, caption in zip(keys, said, captions, strict=True)
        ]
    result: dict[str, Any] = {"examples": examples}
    advice = AT_CHANCE if llm_at_chance else TRAIN_LONGER
    if warning := judge([e["said"] for e in examples], advice):
        result["warning"] = warning
    return result


def judge(said: list[str], advice: str = TRAIN_LONGER) -> str | None:
    """Say what is wrong with generated texts, or None."""
    if not said:
        return None
    empty = sum(not text.strip() for text in said)
    if empty > len(said) / 2:
        return f"the new model says nothing of {empty} of {len(said)} images: {advice}"
    spoken = [text.strip() for text in said if text.strip()]
    if len(spoken) > 2 and len(set(spoken)) == 1:
        silent = f", and nothing of {empty}" if empty else ""
        return f"the new model says the same of {len(spoken)} images ({spoken[0]!r}){silent}: {advice}"
    return None

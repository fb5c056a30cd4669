"""transformers' class of Idefics3, and the processors that its folders get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlavaProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vpg_idefics3.names import HEAD, TRUNK
from vpg_idefics3.preprocessing import Shrunk
from vpgtrans_core.vpg.bare import WholeClass
from vpgtrans_core.vpg.image_token import IMAGE

if TYPE_CHECKING:
    from vpg_idefics3.adapter import Idefics3VPG
    from vpgtrans_core.vpg.adapter import Preprocessing

TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
WHOLE = WholeClass(Idefics3Config, Idefics3ForConditionalGeneration, TRUNK, HEAD, "model.text_model", TINY_VISION)


def image_processor(preprocessing: Preprocessing) -> Idefics3ImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes."""
    assert isinstance(preprocessing, Shrunk)
    return Idefics3ImageProcessorPil(
        size={"longest_edge": preprocessing.longest},
        max_image_size={"longest_edge": preprocessing.size},
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
        do_image_splitting=preprocessing.tiled,
    )


def plain_processor(vpg: Idefics3VPG, tokenizer: Any, chat_template: str) -> LlavaProcessor:
    """A processor for one tile. The family's own puts words of SmolVLM's around an image, which other LLMs were never
    taught."""
    return LlavaProcessor(
        image_processor=vpg.image_processor(),
        tokenizer=tokenizer,
        patch_size=vpg.vision.patch_size * vpg.scale,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=chat_template,
    )


def tiles_processor(vpg: Idefics3VPG, tokenizer: Any, chat_template: str) -> Idefics3Processor:
    """The family's own processor."""
    return Idefics3Processor(
        vpg.image_processor(), tokenizer, image_seq_len=vpg.num_prompts, chat_template=chat_template
    )

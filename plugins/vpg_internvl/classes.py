"""transformers' class of InternVL, and the processors that its folders get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import InternVLConfig, InternVLForConditionalGeneration, LlavaProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vpg_internvl.names import HEAD, TRUNK
from vpgtrans_core.files import read_json, write_json
from vpgtrans_core.vpg.bare import WholeClass
from vpgtrans_core.vpg.image_token import IMAGE

if TYPE_CHECKING:
    from vpg_internvl.adapter import InternVLVPG
    from vpg_internvl.tiled import Dynamic, TiledInternVLVPG
    from vpgtrans_core.vpg.adapter import Preprocessing

TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": (28, 28),
    "patch_size": (14, 14),
}
WHOLE = WholeClass(InternVLConfig, InternVLForConditionalGeneration, TRUNK, HEAD, "model.language_model", TINY_VISION)
VIDEO = "<video>"
"""What the family's processor looks for where a video stands."""


def image_processor(preprocessing: Preprocessing) -> SiglipImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes. The family's own would say beside them how many
    tiles there are, which no class but its own processor takes away again."""
    return SiglipImageProcessorPil(**_values(preprocessing))


def tiles_image_processor(preprocessing: Dynamic) -> GotOcr2ImageProcessorPil:
    """The family's own image processor."""
    return GotOcr2ImageProcessorPil(
        **_values(preprocessing),
        crop_to_patches=True,
        min_patches=preprocessing.fewest,
        max_patches=preprocessing.most,
    )


def _values(preprocessing: Preprocessing) -> dict[str, Any]:
    square = {"height": preprocessing.size, "width": preprocessing.size}
    return {
        "size": square, "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std), "resample": 3
    }  # fmt: skip


def plain_processor(vpg: InternVLVPG, tokenizer: Any, chat_template: str) -> LlavaProcessor:
    """A processor for one tile. The family's own puts words of InternVL's around an image, which other LLMs were never
    taught."""
    side = round(vpg.num_prompts**0.5)
    return LlavaProcessor(
        image_processor=vpg.image_processor(),
        tokenizer=tokenizer,
        patch_size=vpg.preprocessing.size // side,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=chat_template,
    )


def save_tiles_processor(folder: Path, vpg: TiledInternVLVPG, tokenizer: Any, chat_template: str) -> None:
    """Write the family's own processor. It has one of videos inside, which transformers makes with torchvision alone.
    So its files are written without it."""
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    path, (begin, end) = folder / "tokenizer_config.json", vpg.tokens
    names = {"start_image_token": begin, "end_image_token": end, "context_image_token": IMAGE, "video_token": VIDEO}
    write_json(path, {**read_json(path), "extra_special_tokens": names})
    own = {"processor_class": "InternVLProcessor", "image_seq_length": vpg.num_prompts}
    write_json(folder / "processor_config.json", own)
    frames = {"video_processor_type": "InternVLVideoProcessor", "processor_class": "InternVLProcessor"}
    write_json(folder / "video_preprocessor_config.json", {**frames, **_values(vpg.preprocessing)})

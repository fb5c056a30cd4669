"""transformers' classes of LLaVA, LLaVA-NeXT and LLaVA-OneVision, and the processors that their folders get."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from vpg_llava.anyres import AnyRes
from vpg_llava.names import HEAD, LLAVA, NEXT, ONEVISION, TRUNK
from vpg_llava.preprocessing import square_processor
from vpgtrans_core.files import write_json
from vpgtrans_core.vpg.bare import WholeClass
from vpgtrans_core.vpg.image_token import IMAGE

if TYPE_CHECKING:
    from vpg_llava.adapter import LlavaVPG
    from vpgtrans_core.vpg.adapter import Preprocessing


TINY_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def _whole(config: Any, model: Any) -> WholeClass:
    return WholeClass(config, model, TRUNK, HEAD, "model.language_model", TINY_VISION, "image_token_index")


CLASSES = {
    LLAVA: _whole(LlavaConfig, LlavaForConditionalGeneration),
    NEXT: _whole(LlavaNextConfig, LlavaNextForConditionalGeneration),
    ONEVISION: _whole(LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
}


def image_processor(preprocessing: Preprocessing) -> Any:
    """transformers' processor that makes the pixels which vpgt makes."""
    if not isinstance(preprocessing, AnyRes):
        return square_processor(preprocessing)
    square = {"height": preprocessing.size, "width": preprocessing.size}
    values = {
        "size": square,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "image_grid_pinpoints": [list(resolution) for resolution in preprocessing.resolutions],
        "do_center_crop": False,
    }
    if preprocessing.most is None:
        return LlavaNextImageProcessorPil(**values, crop_size=square)
    return LlavaOnevisionImageProcessorPil(**values)


def save_processor(folder: Path, vpg: LlavaVPG, tokenizer: Any, chat_template: str | None) -> None:
    """Write the family's processor with its tokenizer."""
    if vpg.whole is CLASSES[ONEVISION]:
        _save_onevision(folder, vpg, tokenizer, chat_template)
        return
    kind = LlavaNextProcessor if vpg.whole is CLASSES[NEXT] else LlavaProcessor
    kind(
        image_processor=vpg.image_processor(),
        tokenizer=tokenizer,
        patch_size=vpg.vision.patch_size,
        vision_feature_select_strategy=vpg.settings["vision_feature_select_strategy"],
        num_additional_image_tokens=int(vpg.vision.model_type == "clip_vision_model"),
        image_token=IMAGE,
        chat_template=chat_template,
    ).save_pretrained(folder)


def _save_onevision(folder: Path, vpg: LlavaVPG, tokenizer: Any, chat_template: str | None) -> None:
    """OneVision's processor has one of videos inside, which transformers makes with torchvision alone. So its files are
    written without it."""
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    names = {"vision_feature_select_strategy", "vision_aspect_ratio"}
    own = {name: value for name, value in vpg.settings.items() if name in names}
    own |= {"num_image_tokens": vpg.num_prompts, "image_token": IMAGE, "video_token": "<video>"}
    write_json(folder / "processor_config.json", {"processor_class": "LlavaOnevisionProcessor", **own})
    pictures = vpg.preprocessing
    frames = {"size": {"height": pictures.size, "width": pictures.size}, "resample": 3}
    frames |= {"image_mean": list(pictures.mean), "image_std": list(pictures.std)}
    kind = {"video_processor_type": "LlavaOnevisionVideoProcessor", "processor_class": "LlavaOnevisionProcessor"}
    write_json(folder / "video_preprocessor_config.json", {**kind, **frames})

"""The processor with which chat endpoints read a model's folder.

`Blip2Processor` writes the places of one image before the text, wherever the conversation shows it. transformers'
`LlavaProcessor` writes them where the chat template has ``<image>``, for any number of images. A folder whose
``processor_config.json`` names the latter is answered by ``transformers serve``; ``Blip2Processor.from_pretrained``
reads what it needs from the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.vpg.image_token import IMAGE
from vpgtrans_core.weights import read_json, write_json

PROCESSOR, TOKENIZER = "processor_config.json", "tokenizer_config.json"
GENERATION = "generation_config.json"
LLAVA = "LlavaProcessor"


def prepare_endpoint(folder: Path, image_size: int, num_prompts: int, ends: Sequence[int]) -> None:
    """Let a folder that `save_blip2` has written, and that has a chat template, be answered by an endpoint.

    Args:
        image_size: side of the images, in pixels.
        num_prompts: soft prompts an image, Q.
        ends: tokens that end an answer; a caption's line break does not.
    """
    processor: dict[str, Any] = read_json(folder / PROCESSOR)
    write_json(folder / PROCESSOR, processor | _as_llava(image_size, num_prompts))
    tokenizer: dict[str, Any] = read_json(folder / TOKENIZER)
    tokenizer.pop("processor_class", None)  # it would win over the other file's
    write_json(folder / TOKENIZER, tokenizer)
    generation: dict[str, Any] = read_json(folder / GENERATION)
    write_json(folder / GENERATION, generation | {"eos_token_id": list(ends)})


def is_prepared(folder: Path) -> bool:
    """Whether a folder has been prepared so."""
    place = folder / PROCESSOR
    return place.is_file() and read_json(place).get("processor_class") == LLAVA


def _as_llava(image_size: int, num_prompts: int) -> dict[str, Any]:
    """`LlavaProcessor` counts an image's places as patches and additional ones: here one patch, and Q - 1 more."""
    return {
        "processor_class": LLAVA,
        "image_token": IMAGE,
        "vision_feature_select_strategy": "full",
        "patch_size": image_size,
        "num_additional_image_tokens": num_prompts - 1,
        "num_query_tokens": num_prompts,
    }

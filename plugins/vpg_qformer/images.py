"""BLIP's image processor without torchvision."""

from __future__ import annotations

from pathlib import Path

from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vpgtrans_core.vpg.adapter import Preprocessing


def image_processor(preprocessing: Preprocessing) -> BlipImageProcessorPil:
    """transformers' processor that makes the pixels which vpgt makes."""
    return BlipImageProcessorPil(
        size={"height": preprocessing.size, "width": preprocessing.size},
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
    )


def save_image_processor(folder: Path, preprocessing: Preprocessing) -> None:
    """Write ``preprocessor_config.json``."""
    image_processor(preprocessing).save_pretrained(folder)

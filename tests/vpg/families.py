"""The families whose folders hold a bare LLM: sources that transformers' own classes made and wrote, tiny and random,
runs from them, and what the tests of every family ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlavaProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from vpg_idefics3.adapter import Idefics3VPG
from vpg_idefics3.classes import image_processor as idefics3_images
from vpg_idefics3.preprocessing import Shrunk
from vpg_idefics3.tiled import Split, TiledIdefics3VPG
from vpg_internvl.adapter import InternVLVPG
from vpg_internvl.preprocessing import MEAN, STD
from vpg_internvl.tiled import TiledInternVLVPG
from vpg_llava.adapter import LlavaVPG
from vpg_llava.classes import image_processor as llava_images
from vpg_llava.preprocessing import CentreCrop

from tests.vpg.judging import draw
from vpgtrans_core.testing.tiny_models import tiny_config, tiny_tokenizer
from vpgtrans_core.vpg.bare import BareVPG
from vpgtrans_core.vpg.image_token import with_image_token

VIT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
CLIP = {**VIT, "num_hidden_layers": 3, "image_size": 28, "patch_size": 14}
SIGLIP = {**VIT, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}
INTERNVIT = {**VIT, "num_hidden_layers": 2, "image_size": (28, 28), "patch_size": (7, 7)}
NARROWER_AND_WIDER: dict[str, tuple[str, dict[str, Any]]] = {"narrower": ("llama", {}), "wider": ("qwen2", {})}
TIED = {"tied": ("smollm", {"bos": "first", "method": "inherit"})}
AFTER = {"after": ("llama", {"bos": "after", "start": "random"})}


def save_source(
    folder: Path, adapter: type[BareVPG], kind: str, vision: Mapping[str, Any], **more: Any
) -> tuple[Any, Any]:
    """Write a model of the adapter's class around a tiny LLM of a kind; return the tokenizer that knows the family's
    tokens, and the model."""
    torch.manual_seed(0)
    words, whole = tiny_tokenizer(False), adapter.whole
    text = tiny_config(kind, words, {"tie_word_embeddings": False})
    given = {"vision_config": dict(vision), **more}
    own = adapter.from_config({**given, "text_config": text.to_dict()}).tokens
    token = with_image_token(words, text.vocab_size, {1, 2}, own)
    text.vocab_size = max(text.vocab_size, token.id + 1, *(i + 1 for i in token.others))
    config = whole.config(
        text_config=text.to_dict(), tie_word_embeddings=False, **{whole.image_token: token.id}, **given
    )
    model = whole.model(config)
    draw(model)
    model.save_pretrained(folder)
    token.tokenizer.save_pretrained(folder)
    return token.tokenizer, model


def save_llava(folder: Path) -> None:
    tokenizer, _ = save_source(folder, LlavaVPG, "llama", CLIPVisionConfig(**CLIP).to_dict())
    images = llava_images(CentreCrop(size=28))
    LlavaProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default").save_pretrained(folder)


def save_idefics3(folder: Path, adapter: type[BareVPG] = Idefics3VPG) -> None:
    save_source(folder, adapter, "llama", SIGLIP, scale_factor=2)
    kind = Split if adapter is TiledIdefics3VPG else Shrunk
    idefics3_images(kind(size=32, longest=96)).save_pretrained(folder)


def save_internvl(folder: Path, adapter: type[BareVPG] = InternVLVPG, kind: str = "qwen2", **changes: Any) -> None:
    """With the family's own image processor."""
    save_source(folder, adapter, kind, {**INTERNVIT, **changes}, image_seq_length=4)
    size = {"height": 28, "width": 28}
    GotOcr2ImageProcessorPil(size=size, image_mean=MEAN, image_std=STD, max_patches=5).save_pretrained(folder)


@dataclass(frozen=True)
class Family:
    """A family under test.

    Attributes:
        save: writes its source.
        runs: from the source to which target, with which settings besides `settings`.
        moved: the tensors that stage 2 moves.
        projector: the name of the projector's weight in a whole folder.
    """

    adapter: type[BareVPG]
    save: Callable[[Path], None]
    runs: Mapping[str, tuple[str, Mapping[str, Any]]]
    moved: frozenset[str]
    projector: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {name: (target, {**self.settings, **more}) for name, (target, more) in self.runs.items()}


def _moved(*modules: str, more: tuple[str, ...] = ()) -> frozenset[str]:
    return frozenset([*(f"{module}.{kind}" for module in modules for kind in ("weight", "bias")), *more])


LINEAR_1, NORM = "multi_modal_projector.linear_1", "multi_modal_projector.layer_norm"
LAST_NORM = "model.vision_model.post_layernorm"
LINEAR_2, CONNECTOR = "multi_modal_projector.linear_2.weight", "model.connector.modality_projection.proj.weight"
TILES = {"tiles": True}
FAMILIES = {
    "llava": Family(
        LlavaVPG, save_llava, NARROWER_AND_WIDER | TIED | AFTER, _moved(LINEAR_1), LINEAR_2
    ),
    "idefics3": Family(
        Idefics3VPG, save_idefics3, NARROWER_AND_WIDER | AFTER, _moved(LAST_NORM), CONNECTOR
    ),
    "idefics3-tiles": Family(
        TiledIdefics3VPG,
        lambda folder: save_idefics3(folder, TiledIdefics3VPG),
        NARROWER_AND_WIDER | TIED | AFTER,
        _moved(LAST_NORM, more=("separators",)),
        CONNECTOR,
        TILES,
    ),
    "internvl": Family(
        InternVLVPG, save_internvl, NARROWER_AND_WIDER | TIED | AFTER, _moved(LINEAR_1, NORM), LINEAR_2
    ),
    "internvl-tiles": Family(
        TiledInternVLVPG,
        lambda folder: save_internvl(folder, TiledInternVLVPG),
        NARROWER_AND_WIDER | TIED | AFTER,
        _moved(LINEAR_1, NORM, more=("separators",)),
        LINEAR_2,
        TILES,
    ),
}  # fmt: skip

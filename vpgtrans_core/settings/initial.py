"""The settings of ``vpgt init-vpg`` that other runs do not have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from vpgtrans_core.cards import VPGSizes
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.recipes.stage import Amount, Count, Positive, Rate
from vpgtrans_core.settings.build import build
from vpgtrans_core.settings.settings import Settings
from vpgtrans_core.validation import check

SaveType = Literal["float32", "float16", "bfloat16"]
SHARED = (
    *("data", "format", "caption_key", "ratios", "clean", "val_data", "val_images", "limit", "max_bad_ratio"),
    *("max_bad_run", "workers", "augment", "crop_min", "max_tokens", "weight_decay", "clip_norm", "validate_every"),
    *("seed", "overwrite", "resume", "checkpoint_minutes", "checkpoint_steps", "accept_changes", "keep_checkpoints"),
    *("log", "device", "dtype", "cache", "cache_features", "cache_gb", "offline", "trust_remote_code"),
)
"""The settings of other runs that it has, too."""


def _setting(default: Any, help: str, group: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True)
class InitSettings:
    """Which VPG is made, and how it is pre-trained."""

    vision: str | None = _setting(
        None,
        "A trained vision tower to look through, which stays as it is: a folder or hub id of transformers (CLIP, "
        "SigLIP, ViT, DINOv2), or a VL-LLM with a ViT; default: one from nothing, which is trained along.",
        "model",
    )
    like: str | None = _setting(
        None, "A VPG or VL-LLM whose sizes are taken where none are given: an alias, hub id or folder.", "model"
    )
    family: str | None = _setting(None, "The VPG's family; default: the one that can be made from nothing.", "model")
    image_size: Positive | None = _setting(None, "Side of the images, in pixels.", "model")
    patch_size: Positive | None = _setting(None, "Side of the patches that an image is cut into.", "model")
    vision_width: Positive | None = _setting(None, "Width of the vision tower.", "model")
    vision_layers: Positive | None = _setting(None, "Layers of the vision tower.", "model")
    vision_heads: Positive | None = _setting(None, "Attention heads of the vision tower.", "model")
    width: Positive | None = _setting(None, "Width of the part behind it, and of the VPG's output.", "model")
    layers: Positive | None = _setting(None, "Layers of that part.", "model")
    heads: Positive | None = _setting(None, "Attention heads of that part.", "model")
    queries: Positive | None = _setting(None, "Soft prompts an image.", "model")
    dropout: Annotated[float, Ge(0), Lt(1)] | None = _setting(None, "Dropout of that part; default none.", "model")

    out: str = _setting("runs/vpg", "Output folder.", "output")
    save_dtype: SaveType = _setting("float32", "Precision in which the VPG is written.", "output")

    text_loss: bool = _setting(
        True, "Learn to write the captions, too, besides telling which one belongs to an image.", "training"
    )
    vocabulary: Annotated[int, Gt(260)] = _setting(
        4096, "Tokens at most of the vocabulary that is made of the captions.", "training"
    )
    batch_size: Annotated[int, Gt(1)] | None = _setting(
        None, "Images per step; each is told from all others of its step. Default 128.", "training"
    )
    steps: Positive | None = _setting(None, "Steps; default 4000, but at most 100 epochs and at least one.", "training")
    epochs: Rate | None = _setting(None, "Epochs, in place of steps.", "training")
    lr: Rate | None = _setting(
        None, "Peak learning rate; default BLIP-2's 1e-4 at its width of 768, more for smaller ones, at most 1e-3.",
        "training",
    )  # fmt: skip
    min_lr: Amount | None = _setting(None, "Learning rate at the end of the cosine; default a tenth.", "training")
    lr_warmup_steps: Count = _setting(
        500, "Steps of the linear learning-rate warm-up; a tenth of all steps at most.", "training"
    )

    @property
    def sizes(self) -> VPGSizes:
        return VPGSizes(**{field.name: getattr(self, field.name) for field in dataclasses.fields(VPGSizes)})


def build_initial(values: Mapping[str, Any]) -> tuple[InitSettings, Settings]:
    """Both kinds of settings from plain values.

    Raises:
        ConfigError: listing all problems.
    """
    plain = {str(key).replace("-", "_"): value for key, value in values.items()}
    names = {field.name for field in dataclasses.fields(InitSettings)}
    good, problems = check(InitSettings, {name: value for name, value in plain.items() if name in names})
    shared = {name: value for name, value in plain.items() if name not in names}
    problems += [f"unknown setting {name!r}" for name in shared if name not in SHARED]
    if good.get("steps") and good.get("epochs"):
        problems.append("steps and epochs: give one of them")
    settings = Settings()
    try:
        settings = build({name: value for name, value in shared.items() if name in SHARED})
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems, "`vpgt init-vpg --help` lists every setting")
    initial = InitSettings(**good)
    return initial, dataclasses.replace(settings, out=initial.out)

"""Every setting of a run: one frozen dataclass that the command line, a yaml file and Python calls fill.

The command line makes its flags from these fields (``stage1_lr`` is ``--stage1-lr``) and a yaml file uses the field
names as keys, so that a setting is written down once. ``None`` means "the recipe's value": the paper's for real
models, a scaled one for the miniature (see `recipe`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from vpgtrans_core.errors import ConfigError, did_you_mean

Method = Literal["vpgtrans", "scratch", "inherit", "linear"]
Start = Literal["words", "converter", "random"]
Converter = Literal["ridge", "sgd"]
Optimizer = Literal["adamw", "muon"]
Save = Literal["model", "vpg"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "8bit", "4bit"]

YAML_LIMIT = 1 << 20
"""Largest settings file that is read, in bytes."""


def _setting(default: Any, help: str, group: str) -> Any:
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True)
class Settings:
    """All settings of one transfer. See each field's help text (`vpgt transfer --help` prints them)."""

    source: str = _setting(
        "", "The trained VL-LLM: an alias, hub id, folder, or an LLM's alias (its VL-LLM).", "models"
    )
    target: str = _setting("", "The new LLM: an alias, hub id or folder.", "models")

    data: tuple[str, ...] = _setting((), "Captioned images: a file or folder; may be given several times.", "data")
    format: tuple[str, ...] = _setting(
        (), "The data's format where looking is not enough, one for each --data.", "data"
    )
    ratios: tuple[float, ...] = _setting(
        (), "Sampling ratio of each --data (the paper at scale: 0.1, 0.2, 0.7).", "data"
    )
    val_data: str | None = _setting(
        None, "Captioned images for the held-out loss; default: a part of the data.", "data"
    )
    val_images: int | None = _setting(None, "Images held out of the data for the held-out loss; 0 for none.", "data")
    captions_per_image: int | None = _setting(None, "Captions of an image used a visit; default all it has.", "data")
    limit: int | None = _setting(None, "Use at most this many images of the data.", "data")
    max_bad_ratio: float = _setting(0.01, "Stop when more than this share of the samples is bad.", "data")
    max_bad_run: int = _setting(100, "Stop after this many bad samples in a row.", "data")
    workers: int | None = _setting(None, "Processes that decode images; default by the number of cores.", "data")
    augment: bool | None = _setting(
        None, "Random resized crop and flip in training; default yes, no for the miniature.", "data"
    )
    crop_min: float = _setting(0.5, "Smallest share of the image's area that a random crop keeps.", "data")

    method: Method = _setting(
        "vpgtrans",
        "vpgtrans, or a baseline: scratch (TFS), inherit (VPG-inherit), linear (only-linear).",
        "method",
    )
    stages: tuple[int, ...] | None = _setting(None, "The stages to run; default those of the method.", "method")
    start: Start = _setting(
        "words", "The projector's start: words, converter (the paper's merge), or random.", "method"
    )
    converter: Converter = _setting(
        "ridge", "How the word converter is fitted: ridge (closed form) or sgd (paper's).", "method"
    )
    shuffle_pairs: bool = _setting(False, "Control: fit the start on shuffled word pairs.", "method")

    out: str | None = _setting(None, "The output folder; default runs/SOURCE--TARGET.", "output")
    save: Save = _setting(
        "model", "model: the whole VL-LLM; vpg: what was trained, with references to the rest.", "output"
    )
    overwrite: bool = _setting(False, "Replace an output folder that exists.", "output")
    resume: bool = _setting(False, "Continue the run in the output folder.", "output")
    checkpoint_minutes: float = _setting(15.0, "Minutes between checkpoints.", "output")
    checkpoint_steps: int | None = _setting(None, "Steps between checkpoints, besides the minutes.", "output")
    accept_changes: bool = _setting(
        False, "Resume although data, models or settings are others than the run was begun with.", "output"
    )
    keep_checkpoints: int = _setting(2, "Checkpoints kept while training; none is kept after the end.", "output")

    batch_size: int | None = _setting(
        None, "Captions a step, over all processes; default the LLM family's in the paper.", "training"
    )
    micro_positions: int | None = _setting(
        None, "LLM positions computed at once; default found from free memory.", "training"
    )
    max_tokens: int = _setting(32, "Longest caption in tokens.", "training")
    weight_decay: float = _setting(0.05, "AdamW's weight decay.", "training")
    clip_norm: float = _setting(1.0, "Gradient norm above which gradients are scaled down; 0 for never.", "training")
    stage1_epochs: float | None = _setting(None, "Epochs of the projector's warm-up.", "training")
    stage1_steps: int | None = _setting(None, "Steps of the projector's warm-up, instead of epochs.", "training")
    stage1_lr: float | None = _setting(None, "Rate of the warm-up; default 5x that of stage 2.", "training")
    stage1_optimizer: Optimizer | None = _setting(
        None, "adamw (the paper) or muon; default muon after a words start.", "training"
    )
    early_stop: bool = _setting(True, "End the warm-up when its held-out loss no longer falls.", "training")
    stage2_epochs: float | None = _setting(None, "Epochs of fine-tuning.", "training")
    stage2_steps: int | None = _setting(None, "Steps of fine-tuning, instead of epochs.", "training")
    stage2_lr: float | None = _setting(None, "Peak rate of fine-tuning.", "training")
    stage2_min_lr: float | None = _setting(None, "Rate at the end of the cosine.", "training")
    warmup_steps: int | None = _setting(None, "Steps of linear rise at the beginning of stage 2.", "training")
    warmup_lr: float | None = _setting(None, "Rate at the beginning of the rise.", "training")
    validate_every: int | None = _setting(
        None, "Steps between held-out losses; default four times an epoch.", "training"
    )
    seed: int = _setting(0, "Seed of everything random.", "training")

    device: str = _setting("auto", "auto, cpu, cuda or cuda:N.", "machine")
    dtype: DType = _setting(
        "auto",
        "Precision of the frozen parts; auto: the family's half on a GPU, float32 on a CPU.",
        "machine",
    )
    quantization: Quantization = _setting("none", "Frozen LLM in 8bit or 4bit (bitsandbytes).", "machine")
    share_prefix: bool = _setting(
        True, "Captions of an image share its visual prefix where the LLM allows it.", "machine"
    )
    checkpoint_activations: bool = _setting(
        False, "Recompute the LLM's activations in the backward pass to save memory.", "machine"
    )
    compile: bool | None = _setting(
        None, "torch.compile the frozen LLM; default yes on a GPU where the run is long.", "machine"
    )
    cache: str | None = _setting(None, "Folder of the feature cache; default the user's cache folder.", "machine")
    cache_features: bool | None = _setting(
        None, "Keep VPG outputs on disk; default yes where views are fixed.", "machine"
    )
    cache_gb: float = _setting(20.0, "Most gigabytes the cache may take for this run.", "machine")
    views: int = _setting(1, "Augmented views an image in the cache.", "machine")
    offline: bool = _setting(False, "Never ask the hub; use what is on disk.", "machine")
    trust_remote_code: bool = _setting(False, "Run code that comes with a model folder.", "machine")


STAGES: dict[str, tuple[int, ...]] = {"vpgtrans": (1, 2), "scratch": (2,), "inherit": (2,), "linear": (1,)}
"""The stages of each method."""

PAPER: dict[str, Any] = {
    "stage1_epochs": 1.0,
    "stage2_epochs": 1.0,
    "stage2_lr": 1e-4,
    "stage2_min_lr": 1e-5,
    "warmup_lr": 1e-6,
    "warmup_steps": 2000,
    "augment": True,
    "val_images": 500,
}
MINIATURE: dict[str, Any] = {
    "stage1_epochs": 1.0,
    "stage2_epochs": 6.0,
    "stage2_lr": 3e-3,
    "stage2_min_lr": 1e-4,
    "warmup_lr": 1e-4,
    "warmup_steps": 5,
    "augment": False,
    "val_images": 100,
    "batch_size": 320,
    "workers": 0,
}


def recipe(settings: Settings, *, miniature: bool, batch_size: int) -> Settings:
    """Fill what was left open: the paper's values, or the miniature's; `batch_size` is the LLM family's."""
    values = {"batch_size": batch_size, **(MINIATURE if miniature else PAPER)}
    open_values = {k: v for k, v in values.items() if getattr(settings, k) is None}
    filled = dataclasses.replace(settings, **open_values)
    more: dict[str, Any] = {}
    if filled.stages is None:
        more["stages"] = STAGES[filled.method]
    if filled.stage1_lr is None:
        more["stage1_lr"] = 5 * (filled.stage2_lr or 0.0)
    if filled.method in ("scratch", "inherit", "linear"):
        more["start"] = "random"
    if filled.stage1_optimizer is None:
        more["stage1_optimizer"] = "muon" if more.get("start", filled.start) == "words" else "adamw"
    return dataclasses.replace(filled, **more)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file through the gate: plain yaml, bounded size, a mapping at the top.

    Raises:
        ConfigError: the file is missing, too large, no yaml, or no mapping.
    """
    try:
        if path.stat().st_size > YAML_LIMIT:
            raise ConfigError([f"{path} is larger than {YAML_LIMIT} bytes, too large for settings"])
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not plain yaml: {error}"]) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path} must hold a mapping of settings, not a {type(values).__name__}"])
    return values


def build(values: dict[str, Any]) -> Settings:
    """Make `Settings` of plain values, with every unknown key and every badly typed value reported at once.

    Raises:
        ConfigError: listing all problems.
    """
    hints = get_type_hints(Settings)
    problems, good = [], {}
    for key, value in values.items():
        name = {"from": "source", "to": "target"}.get(key, str(key).replace("-", "_"))
        if name not in hints:
            problems.append(f"unknown setting {key!r}" + (f"; {guess}" if (guess := did_you_mean(name, hints)) else ""))
            continue
        try:
            good[name] = _coerce(value, hints[name])
        except (TypeError, ValueError) as error:
            problems.append(f"{key}: {error}")
    if not problems:
        problems = _relations(Settings(**good))
    if problems:
        raise ConfigError(problems, "`vpgt transfer --help` lists every setting")
    return Settings(**good)


def _coerce(value: Any, hint: Any) -> Any:
    """Return `value` as the type that `hint` asks for; raise TypeError or ValueError saying what was expected."""
    args = get_args(hint)
    if type(None) in args:
        return None if value is None else _coerce(value, next(a for a in args if a is not type(None)))
    if get_origin(hint) is Literal:
        if value not in args:
            guess = did_you_mean(str(value), map(str, args))
            raise ValueError(
                f"must be one of {', '.join(map(str, args))}, not {value!r}" + (f"; {guess}" if guess else "")
            )
        return value
    if get_origin(hint) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(item, args[0]) for item in items)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # yaml reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            raise TypeError(f"must be a number, not {value!r}") from None
    if hint is str and isinstance(value, Path):
        return str(value)
    if type(value) is not hint:
        raise TypeError(f"must be {_NAMES.get(hint, hint.__name__)}, not {value!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _relations(s: Settings) -> list[str]:
    """Problems that show only when settings are seen together."""
    problems = []
    positive = (
        "batch_size",
        "micro_positions",
        "max_tokens",
        "stage1_lr",
        "stage2_lr",
        "views",
        "checkpoint_minutes",
        "limit",
        "captions_per_image",
        "checkpoint_steps",
        "validate_every",
        "cache_gb",
    )
    problems += [f"{n}: must be above 0, not {v}" for n in positive if (v := getattr(s, n)) is not None and v <= 0]
    no_less = (
        "stage1_epochs",
        "stage2_epochs",
        "stage1_steps",
        "stage2_steps",
        "warmup_steps",
        "weight_decay",
        "clip_norm",
        "val_images",
        "workers",
        "max_bad_ratio",
        "max_bad_run",
        "stage2_min_lr",
        "warmup_lr",
    )
    problems += [f"{n}: must not be negative, not {v}" for n in no_less if (v := getattr(s, n)) is not None and v < 0]
    if s.ratios and len(s.ratios) != len(s.data):
        problems.append(f"ratios: {len(s.ratios)} given for {len(s.data)} data sources")
    if any(r <= 0 for r in s.ratios):
        problems.append("ratios: each must be above 0")
    if len(s.format) not in (0, 1, len(s.data)):
        problems.append(f"format: {len(s.format)} given for {len(s.data)} data sources")
    if s.stages is not None and (not set(s.stages) <= {1, 2} or list(s.stages) != sorted(set(s.stages))):
        problems.append(f"stages: must be 1, 2 or 1 2, not {' '.join(map(str, s.stages))}")
    if not 0 < s.crop_min <= 1:
        problems.append(f"crop_min: must be above 0 and at most 1, not {s.crop_min}")
    if s.compile and s.checkpoint_activations:
        problems.append("compile: blocks that checkpoint_activations recomputes run uncompiled; give one of the two")
    if s.compile and s.quantization != "none":
        problems.append("compile: not for a quantised LLM; give one of compile and quantization")
    if s.resume and s.overwrite:
        problems.append("resume and overwrite exclude each other")
    return problems

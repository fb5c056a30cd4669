"""Every setting of a run: one frozen dataclass that the command line, a yaml file and Python calls fill.

The command line makes its flags from these fields (``stage1_lr`` is ``--stage1-lr``) and a yaml file uses the field
names as keys, so that a setting is written down once. ``None`` means "the recipe's value": the paper's for real
models, a scaled one for the miniature (see `recipe`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Gt, Le

from vpgtrans_core.errors import ConfigError, did_you_mean
from vpgtrans_core.files import check_plain
from vpgtrans_core.recipes.lists import LISTS, LR_FACTOR, PAPER, Recipe
from vpgtrans_core.recipes.stage import Amount, Count, Optimizer, Positive, Rate, Stage, data_problems
from vpgtrans_core.validation import check

Method = Literal["vpgtrans", "scratch", "inherit", "linear"]
Start = Literal["words", "converter", "random"]
Converter = Literal["ridge", "sgd"]
Save = Literal["model", "vpg"]
Template = Literal["minigpt4", "plain"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "8bit", "4bit"]
StageItem = int | str | dict[str, Any]
"""What ``stages`` holds: a stage of the recipe by its number or name, or a mapping of a `Stage`'s fields."""

ALIASES = {
    "from": "source",
    "to": "target",
    "warmup_steps": "stage2_lr_warmup_steps",
    "warmup_lr": "stage2_lr_warmup_start",
}
"""Other names of settings; records of earlier runs use the last two."""

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
    caption_key: str | None = _setting(
        None, "The field, column or json key that holds the captions; default the usual names.", "data"
    )
    ratios: tuple[Rate, ...] = _setting(
        (), "Sampling ratio of each --data (the paper at scale: 0.1, 0.2, 0.7).", "data"
    )
    clean: bool | None = _setting(
        None,
        "Lower-case captions and take marks out, as the paper does; default yes, no for conversations (llava).",
        "data",
    )
    template: Template = _setting("minigpt4", "How conversations are written: minigpt4 or plain.", "data")
    val_data: str | None = _setting(
        None, "Captioned images for the held-out loss; default: a part of the data.", "data"
    )
    val_images: Count | None = _setting(None, "Images held out of the data for the held-out loss; 0 for none.", "data")
    captions_per_image: Positive | None = _setting(
        None, "Captions of an image used a visit; default all it has.", "data"
    )
    limit: Positive | None = _setting(None, "Use at most this many images of the data.", "data")
    max_bad_ratio: Amount = _setting(0.01, "Stop when more than this share of the samples is bad.", "data")
    max_bad_run: Count = _setting(100, "Stop after this many bad samples in a row.", "data")
    workers: Count | None = _setting(None, "Processes that decode images; default by the number of cores.", "data")
    augment: bool | None = _setting(
        None, "Random resized crop and flip in training; default yes, no for the miniature.", "data"
    )
    crop_min: Annotated[float, Gt(0), Le(1)] = _setting(
        0.5, "Smallest share of the image's area that a random crop keeps.", "data"
    )

    method: Method = _setting(
        "vpgtrans",
        "vpgtrans, or a baseline: scratch (TFS), inherit (VPG-inherit), linear (only-linear).",
        "method",
    )
    stages: tuple[StageItem, ...] | None = _setting(
        None, "The stages to run, by number or name, or new ones in a yaml file; default the method's.", "method"
    )
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
    checkpoint_minutes: Rate = _setting(15.0, "Minutes between checkpoints.", "output")
    checkpoint_steps: Positive | None = _setting(None, "Steps between checkpoints, besides the minutes.", "output")
    accept_changes: bool = _setting(
        False, "Resume even if data, models or settings differ from those that the run began with.", "output"
    )
    keep_checkpoints: Count = _setting(2, "Checkpoints kept while training; none is kept after the end.", "output")

    batch_size: Positive | None = _setting(
        None, "Captions a step, over all processes; default the LLM family's in the paper.", "training"
    )
    micro_positions: Positive | None = _setting(
        None, "LLM positions computed at once; default found from free memory.", "training"
    )
    max_tokens: Positive = _setting(32, "Longest caption in tokens.", "training")
    weight_decay: Amount = _setting(0.05, "AdamW's weight decay.", "training")
    clip_norm: Amount = _setting(1.0, "Gradient norm above which gradients are scaled down; 0 for never.", "training")
    stage1_epochs: Amount | None = _setting(None, "Epochs of stage 1, the projector's warm-up.", "training")
    stage1_steps: Count | None = _setting(None, "Steps of stage 1, instead of epochs.", "training")
    stage1_lr: Rate | None = _setting(None, "Learning rate of stage 1; default 5x that of stage 2.", "training")
    stage1_optimizer: Optimizer | None = _setting(
        None, "Optimiser of stage 1: adamw (the paper) or muon; default muon after a words start.", "training"
    )
    early_stop: bool = _setting(True, "End stage 1 when its held-out loss no longer falls.", "training")
    stage2_epochs: Amount | None = _setting(None, "Epochs of stage 2, fine-tuning.", "training")
    stage2_steps: Count | None = _setting(None, "Steps of stage 2, instead of epochs.", "training")
    stage2_lr: Rate | None = _setting(None, "Peak learning rate of stage 2.", "training")
    stage2_min_lr: Amount | None = _setting(None, "Learning rate at the end of stage 2's cosine.", "training")
    stage2_lr_warmup_steps: Count | None = _setting(
        None, "Steps of stage 2 in which its learning rate rises linearly to the peak.", "training"
    )
    stage2_lr_warmup_start: Amount | None = _setting(
        None, "Learning rate of stage 2 at the start of that rise.", "training"
    )
    validate_every: Positive | None = _setting(
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
    cache_gb: Rate = _setting(20.0, "Most gigabytes the cache may take for this run.", "machine")
    views: Positive = _setting(1, "Augmented views an image in the cache.", "machine")
    offline: bool = _setting(False, "Never ask the hub; use what is on disk.", "machine")
    trust_remote_code: bool = _setting(False, "Run code that comes with a model folder.", "machine")


def fill(settings: Settings, recipe: Recipe, *, batch_size: int) -> Settings:
    """Fill what was left open with the values of `recipe`, which go before `batch_size`, the LLM family's."""
    values = {"batch_size": batch_size, "stages": LISTS[settings.method], **recipe.settings}
    if settings.stage2_lr is not None:
        values["stage1_lr"] = LR_FACTOR * settings.stage2_lr
    start = "random" if settings.method != "vpgtrans" else settings.start
    values["stage1_optimizer"] = "muon" if start == "words" else "adamw"
    for number, stage in recipe.stages.items():
        for name, value in vars(stage).items():
            values.setdefault(f"stage{number}_{name}", value)
    open_values = {k: v for k, v in values.items() if getattr(settings, k, k) is None}
    return dataclasses.replace(settings, **open_values, start=start)


def stages_of(settings: Settings) -> tuple[Stage, ...]:
    """The run's stages, complete: the recipe's with the settings ``stage1_...`` and ``stage2_...`` laid over them, and
    whatever ``stages`` changes or adds.

    A stage keeps the number that it has in the recipe; a new one is numbered after the one before it.
    """
    own = _recipe_stages(settings)
    stages: list[Stage] = []
    for item in LISTS[settings.method] if settings.stages is None else settings.stages:
        after = stages[-1].number if stages else 0
        stages.append(_stage(item, own, after + 1))
    return tuple(stages)


def stage_settings(settings: Settings, stage: Stage) -> Settings:
    """The settings as they are in one stage: its own data, batch and texts in place of the run's."""
    names = ("batch_size", "captions_per_image", "max_tokens")
    own = {name: value for name in names if (value := getattr(stage, name)) is not None}
    if stage.data:
        own |= {"data": stage.data, "format": stage.format, "ratios": stage.ratios}
    return dataclasses.replace(settings, **own)


def _recipe_stages(settings: Settings) -> dict[int, Stage]:
    """The recipe's stages by number, with the values of the settings that are theirs."""
    own = {}
    for number, stage in PAPER.stages.items():
        values = {f.name: getattr(settings, f"stage{number}_{f.name}", None) for f in dataclasses.fields(Stage)}
        own[number] = _changed(stage, {name: value for name, value in values.items() if value is not None})
    own[1] = dataclasses.replace(own[1], early_stop=settings.early_stop)
    return own


def _stage(item: StageItem, own: Mapping[int, Stage], number: int) -> Stage:
    """One item of ``stages``, complete; `number` is the lowest that it may have."""
    given: dict[str, Any] = item if isinstance(item, dict) else {"name": item}
    for stage in own.values():
        if given["name"] in (stage.number, stage.name):
            stage = dataclasses.replace(stage, number=max(stage.number, number))
            return _changed(stage, {key: value for key, value in given.items() if key != "name"})
    return _changed(Stage(number, given["name"], given["trains"], given["lr"]), given)


def _changed(stage: Stage, values: Mapping[str, Any]) -> Stage:
    """`stage` with other values; what follows from them follows, unless it is given too."""
    more: dict[str, Any] = {}
    if values.get("epochs") is not None:
        more["steps"] = None
    if "optimizer" in values:
        plain = next((own.schedule for own in PAPER.stages.values() if own.name == stage.name), "cosine")
        more["schedule"] = "muon" if values["optimizer"] == "muon" else plain
    return dataclasses.replace(stage, **{**more, **values})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file through the gate: plain yaml, bounded size, a mapping at the top.

    Raises:
        ConfigError: the file is missing, too large, no yaml, or no mapping.
    """
    try:
        if path.stat().st_size > YAML_LIMIT:
            raise ConfigError([f"{path} is larger than {YAML_LIMIT} bytes, too large for settings"])
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_plain(values)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot read {path}: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not plain yaml: {error}"]) from error
    except (ValueError, RecursionError) as error:  # yaml's own reader recurses, and refuses dates that cannot be
        raise ConfigError([f"{path} cannot be used: {error}"], "write plain settings, one a line") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path} must hold a mapping of settings, not a {type(values).__name__}"])
    return values


def build(values: Mapping[str, Any]) -> Settings:
    """Make `Settings` of plain values, with every unknown key and every wrong value reported at once.

    Raises:
        ConfigError: listing all problems.
    """
    named = [(ALIASES.get(str(key).replace("-", "_"), str(key).replace("-", "_")), key) for key in values]
    twice = [f"{name}: given twice, also as {key!r}" for n, (name, key) in enumerate(named) if name in dict(named[:n])]
    plain = {name: values[key] for name, key in named}
    stages, problems = _stage_items(plain.pop("stages", None))
    good, wrong = check(Settings, plain)
    problems = twice + wrong + problems
    if not problems:
        settings = Settings(**good, stages=stages)
        problems = [problem for relation in RELATIONS for problem in relation(settings)]
    if problems:
        raise ConfigError(problems, "`vpgt transfer --help` lists every setting")
    return settings


def _stage_items(value: Any) -> tuple[tuple[StageItem, ...] | None, list[str]]:
    """The items of ``stages`` with their fields converted, and what is wrong with them."""
    if value is None:
        return None, []
    known = {stage.name: stage.number for stage in PAPER.stages.values()}
    items: list[StageItem] = []
    problems: list[str] = []
    for item in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
        if isinstance(item, Mapping):
            fields, wrong = _stage_fields(item, known)
            items.append(fields)
            problems += wrong
        elif isinstance(item, bool) or item not in (*known, *known.values()):
            guess = did_you_mean(str(item), known) or f"there are {', '.join(f'{n} ({s})' for s, n in known.items())}"
            problems.append(f"stages: unknown stage {item!r}; {guess}; a new one is a mapping in a yaml file")
        else:
            items.append(item)
    return tuple(items), problems


def _stage_fields(item: Mapping[str, Any], known: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """The fields of one mapping in ``stages``; a stage that the recipe does not have must be whole."""
    fields, problems = check(Stage, item, kind="field", leave_out=("number",))
    name = fields.get("name")
    if name not in known:
        given = {str(key).replace("-", "_") for key in item}
        problems += [f"field {key!r} is missing" for key in ("name", "trains", "lr") if key not in given]
    return fields, [f"stage {name!r}: {problem}" if name else f"stages: {problem}" for problem in problems]


def _data_fits(settings: Settings) -> list[str]:
    return data_problems(settings.data, settings.format, settings.ratios)


def _stages_fit(settings: Settings) -> list[str]:
    stages = stages_of(fill(settings, PAPER, batch_size=1))
    problems = [problem for stage in stages for problem in stage.problems()]
    names = [stage.name for stage in stages]
    problems += [
        f"stages: {name!r} is there more than once" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    own = [names.index(stage.name) for stage in PAPER.stages.values() if stage.name in names]
    if own != sorted(own):
        problems.append("stages: warm-up (1) comes before fine-tuning (2)")
    return problems


def _compile_fits(settings: Settings) -> list[str]:
    if not settings.compile:
        return []
    problems = []
    if settings.checkpoint_activations:
        problems.append("compile: blocks that checkpoint_activations recomputes run uncompiled; give one of the two")
    if settings.quantization != "none":
        problems.append("compile: not for a quantised LLM; give one of compile and quantization")
    return problems


def _resume_fits(settings: Settings) -> list[str]:
    return ["resume and overwrite exclude each other"] if settings.resume and settings.overwrite else []


RELATIONS = (_data_fits, _stages_fit, _compile_fits, _resume_fits)
"""What must hold between settings; each returns its problems."""

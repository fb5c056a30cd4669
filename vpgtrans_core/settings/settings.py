"""Every setting of a run: one frozen dataclass that the command line, a yaml file and Python calls fill.

The command line makes its flags from these fields (``stage1_lr`` is ``--stage1-lr``) and a yaml file uses the field
names as keys, so that a setting is written down once. ``None`` means "the recipe's value": the paper's for real
models, a scaled one for the miniature (see `recipe`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le, Lt

from vpgtrans_core.recipes.holding import Place, Quantization
from vpgtrans_core.recipes.items import StageItem
from vpgtrans_core.recipes.stage import Amount, Count, Optimizer, Positive, Rate

Method = Literal["vpgtrans", "scratch", "inherit", "linear", "tune"]
Then = Literal["minigpt4-align", "instruction-tuning"]
Start = Literal["words", "converter", "random"]
Converter = Literal["ridge", "sgd"]
Save = Literal["model", "vpg"]
Bos = Literal["auto", "first", "after"]
Logger = Literal["tensorboard", "trackio"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
ALIASES = {
    "from": "source",
    "to": "target",
    "warmup_steps": "stage2_lr_warmup_steps",
    "warmup_lr": "stage2_lr_warmup_start",
}
"""Other names of settings; records of earlier runs use the last two."""


def _setting(default: Any, help: str, group: str) -> Any:
    return field(default=default, metadata={"help": help, "group": group})


@dataclass(frozen=True)
class Settings:
    """All settings of one transfer. See each field's help text (`vpgt transfer --help` prints them)."""

    source: str = _setting("", "Source VL-LLM: an alias, hub id or folder, or the alias of its LLM.", "models")
    target: str = _setting("", "Target LLM: an alias, hub id or folder.", "models")

    data: tuple[str, ...] = _setting(
        (), "Training images with captions: a file or folder; can be given several times.", "data"
    )
    format: tuple[str, ...] = _setting(
        (), "Format of the data where it cannot be detected: one for all --data, or one for each.", "data"
    )
    caption_key: str | None = _setting(
        None, "Field, column or json key that holds the captions; default: the usual names.", "data"
    )
    ratios: tuple[Rate, ...] = _setting(
        (), "Sampling ratio of each --data (0.1, 0.2, 0.7 in the paper's large runs).", "data"
    )
    clean: bool | None = _setting(
        None,
        "Lower-case captions and remove punctuation, as the paper does; default yes, no for conversations (llava).",
        "data",
    )
    template: str = _setting(
        "auto",
        "Chat template: one that ships (`vpgt template --list`), own (the tokenizer's), a file of jinja, or auto (own, "
        "else minigpt4).",
        "data",
    )
    bos: Bos = _setting(
        "auto",
        "Where the token that begins a text stands: first, or after the image, as in the paper; auto: where the LLM "
        "wants it.",
        "data",
    )
    val_data: str | None = _setting(
        None, "Images with captions for the held-out loss; default: a part of the training data.", "data"
    )
    val_images: Count | None = _setting(None, "Number of images for the held-out loss; 0 for none.", "data")
    captions_per_image: Positive | None = _setting(
        None, "Captions used each time an image is drawn; default all it has.", "data"
    )
    limit: Positive | None = _setting(None, "Maximum number of training images.", "data")
    captions: str | None = _setting(
        None, "Who describes images without captions: source, or source:N for up to N captions each (5).", "data"
    )
    caption_temperature: Amount = _setting(
        0.7, "Temperature at which the source's captions are sampled; 0 takes its likeliest words.", "data"
    )
    caption_share: Annotated[float, Gt(0), Lt(1)] | None = _setting(
        None, "Share of the drawn images whose captions are the source's; default by number of images.", "data"
    )
    max_bad_ratio: Amount = _setting(0.01, "Stop when more than this share of the samples is unusable.", "data")
    max_bad_run: Count = _setting(100, "Stop after this many unusable samples in a row.", "data")
    workers: Count | None = _setting(None, "Processes that decode images; default depends on the CPU cores.", "data")
    augment: bool | None = _setting(
        None, "Random resized crops and flips in training; default yes, no for the miniature.", "data"
    )
    crop_min: Annotated[float, Gt(0), Le(1)] = _setting(
        0.5, "Smallest share of the image's area that a random crop keeps.", "data"
    )

    tiles: bool = _setting(
        False, "Cut pictures into tiles, as the source's own processor does, where one tile is enough, too.", "data"
    )

    method: Method = _setting(
        "vpgtrans",
        "vpgtrans, or a baseline: scratch (TFS), inherit (VPG-inherit), linear (only-linear). tune is the method of "
        "`vpgt tune`.",
        "method",
    )
    stages: tuple[StageItem, ...] | None = _setting(
        None,
        "Stages to run, by number or name; a yaml file can define new ones. Default: those of the method.",
        "method",
    )
    then: Then | None = _setting(
        None,
        "A further stage that makes a chat model of it: minigpt4-align (as in the paper) or instruction-tuning (in "
        "the LLM's own template).",
        "method",
    )
    then_data: tuple[str, ...] = _setting((), "Conversations or descriptions for --then.", "method")
    lora: Positive | None = _setting(
        None, "Rank of LoRA adapters in the LLM's attention, which instruction tuning then trains too (PEFT).", "method"
    )
    start: Start = _setting(
        "words", "How the projector is initialised: words, converter (as in the paper), or random.", "method"
    )
    converter: Converter = _setting(
        "ridge", "How the word converter is fitted: ridge (closed form) or sgd (as in the paper).", "method"
    )
    same_base: bool = _setting(
        True,
        "Where the target is a fine-tune of the source's LLM, keep the source's projector; leave the warm-up out if "
        "the held-out loss is then as good as the source's.",
        "method",
    )
    shuffle_pairs: bool = _setting(False, "Control: initialise from shuffled word pairs.", "method")

    out: str | None = _setting(None, "Output folder; default runs/SOURCE--TARGET.", "output")
    save: Save = _setting(
        "model",
        "What to save: model (the whole VL-LLM) or vpg (the trained part, with references to the rest).",
        "output",
    )
    overwrite: bool = _setting(False, "Replace the output folder of an earlier run.", "output")
    resume: bool = _setting(False, "Continue the run in the output folder.", "output")
    checkpoint_minutes: Rate = _setting(15.0, "Minutes between checkpoints.", "output")
    checkpoint_steps: Positive | None = _setting(
        None, "Steps between checkpoints, in addition to the minutes.", "output"
    )
    accept_changes: bool = _setting(
        False, "Resume even if data, models or settings have changed since the run started.", "output"
    )
    keep_checkpoints: Count = _setting(2, "Checkpoints kept during training; all are removed at the end.", "output")

    batch_size: Positive | None = _setting(
        None,
        "Captions per step, over all processes; default: 1 % of an epoch, from 16 to the paper's value for the LLM "
        "family.",
        "training",
    )
    micro_positions: Positive | None = _setting(
        None, "LLM positions in one forward pass; default chosen for the device and its free memory.", "training"
    )
    max_tokens: Positive = _setting(32, "Maximum length of a caption in tokens; longer ones are cut.", "training")
    weight_decay: Amount = _setting(0.05, "Weight decay of AdamW.", "training")
    clip_norm: Amount = _setting(
        1.0, "Maximum gradient norm: larger gradients are scaled down; 0 turns this off.", "training"
    )
    stage1_epochs: Amount | None = _setting(None, "Epochs of stage 1, the warm-up of the projector.", "training")
    stage1_steps: Count | None = _setting(None, "Steps of stage 1, in place of epochs.", "training")
    stage1_lr: Rate | None = _setting(None, "Learning rate of stage 1; default five times that of stage 2.", "training")
    stage1_optimizer: Optimizer | None = _setting(
        None,
        "Optimiser of stage 1: adamw (as in the paper) or muon; default muon with --start words, else adamw.",
        "training",
    )
    early_stop: bool = _setting(True, "End stage 1 early when the held-out loss no longer falls.", "training")
    stage2_epochs: Amount | None = _setting(None, "Epochs of stage 2, fine-tuning.", "training")
    stage2_steps: Count | None = _setting(None, "Steps of stage 2, in place of epochs.", "training")
    stage2_lr: Rate | None = _setting(None, "Peak learning rate of stage 2.", "training")
    stage2_min_lr: Amount | None = _setting(None, "Learning rate at the end of stage 2's cosine schedule.", "training")
    stage2_optimizer: Optimizer | None = _setting(
        None,
        "Optimiser of stage 2: adamw (the default, as in the paper), or muon for the projector, with adamw beside it.",
        "training",
    )
    stage2_lr_warmup_steps: Count | None = _setting(
        None, "Steps of the linear learning-rate warm-up at the start of stage 2.", "training"
    )
    stage2_lr_warmup_start: Amount | None = _setting(
        None, "Learning rate at the start of the linear warm-up.", "training"
    )
    stage3_epochs: Amount | None = _setting(
        None, "Epochs of stage 3, instruction tuning, in place of steps.", "training"
    )
    stage3_steps: Count | None = _setting(None, "Steps of stage 3.", "training")
    stage3_batch_size: Positive | None = _setting(None, "Answers per step of stage 3, over all processes.", "training")
    stage3_max_tokens: Positive | None = _setting(None, "Maximum length of a text of stage 3 in tokens.", "training")
    stage3_lr: Rate | None = _setting(None, "Peak learning rate of stage 3.", "training")
    stage3_min_lr: Amount | None = _setting(None, "Learning rate at the end of stage 3.", "training")
    stage3_lr_warmup_steps: Count | None = _setting(
        None, "Steps of the linear learning-rate warm-up at the start of stage 3.", "training"
    )
    validate_every: Positive | None = _setting(
        None,
        "Steps between measurements of the held-out loss; default: four per epoch, fewer where many captions are held "
        "out.",
        "training",
    )
    log: tuple[Logger, ...] = _setting(
        (), "Where numbers go besides metrics.jsonl: tensorboard or trackio; can be given several times.", "output"
    )
    source_loss: bool | None = _setting(
        None,
        "Measure the source's own held-out loss; default yes where that is at most 5 % of the run's work and the "
        "source's LLM is no larger than the target.",
        "training",
    )
    seed: int = _setting(0, "Random seed.", "training")

    device: str = _setting("auto", "Device: auto, cpu, cuda or cuda:N.", "machine")
    dtype: DType = _setting(
        "auto",
        "Precision of the frozen parts; auto: the LLM family's half precision on a GPU, float32 on a CPU.",
        "machine",
    )
    quantization: Quantization = _setting(
        "none",
        "Load the frozen LLM in 8 or 4 bits (bitsandbytes), or let it compute in float8 (an H100 or a later GPU).",
        "machine",
    )
    place: Place | None = _setting(
        None,
        "Spread the LLM over this machine's GPUs (auto), and over its main memory where they are too small (auto:cpu).",
        "machine",
    )
    share_prefix: bool = _setting(
        True, "Share the visual prefix between the captions of an image, where the LLM allows it.", "machine"
    )
    checkpoint_activations: bool = _setting(
        False, "Recompute the LLM's activations in the backward pass to save memory.", "machine"
    )
    shard: bool | None = _setting(
        None, "Spread the frozen LLM's blocks over the processes, which then hold a part of it each.", "machine"
    )
    round_rows: bool | None = _setting(
        None,
        "Round the sizes of what the LLM computes at once up, so that a device sees few different ones; default yes on "
        "a GPU.",
        "machine",
    )
    compile: bool | None = _setting(
        None,
        "Compile the frozen LLM and ViT with torch.compile; default the LLM alone, for long runs on a GPU.",
        "machine",
    )
    cache: str | None = _setting(None, "Folder of the feature cache; default: the user's cache folder.", "machine")
    cache_features: bool | None = _setting(
        None,
        "Cache the outputs of frozen parts on disk; default yes without augmentation or with --views above 1.",
        "machine",
    )
    cache_gb: Rate = _setting(20.0, "Maximum size in gigabytes of what this run caches.", "machine")
    views: Positive = _setting(1, "Augmented views of each image in the cache.", "machine")
    offline: bool = _setting(False, "Use local files only; never contact the Hugging Face hub.", "machine")
    trust_remote_code: bool = _setting(False, "Run Python code that comes with a model.", "machine")

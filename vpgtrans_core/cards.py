"""Descriptions that plugins give to the core: frozen, small and free of torch.

A plugin's hooks return these; whatever is heavy is named as ``"module:Object"`` and imported on use (`load`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from vpgtrans_core.errors import PluginError
from vpgtrans_core.validation import Pattern

API_VERSION = 1
"""The version of the hook specs and of these cards. A plugin may state the one it needs as ``VPGT_API = 1``."""


BosOrder = Literal["first", "after"]
"""Where the token that begins a text stands, for LLMs that have one: first of all, where their own training had it, or
after the image, as in the paper's code, which learns to say it, too."""

FACTS = ("hidden_size", "vocab_size", "end_token")
"""What a card says that a run depends on and that transformers' config classes may state as well."""

Name = Annotated[str, Pattern(r"[^\s:/\\]+", "a name without spaces, colons and slashes")]
_OBJECT = r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*"
Target = Annotated[str, Pattern(_OBJECT, "written as 'package.module:Object'")]
ModuleOrNone = Annotated[str, Pattern(r"([A-Za-z_]\w*(\.\w+)*)?", "written as 'package.module'")]
TargetOrNone = Annotated[str, Pattern(f"({_OBJECT})?", "written as 'package.module:Object'")]
Size = Annotated[int, Gt(0)]
ModelTypes = Annotated[tuple[str, ...], MinLen(1)]


def load(target: str) -> Any:
    """Import ``"package.module:Object"`` and return the object.

    Raises:
        ImportError, AttributeError: as the import machinery raises them; the registry reports them by plugin.
    """
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def know_classes(family: LLMFamily) -> None:
    """Import what registers the classes of a family with transformers, if transformers itself does not have them.

    Raises:
        PluginError: the module cannot be imported.
    """
    if not family.classes:
        return
    try:
        importlib.import_module(family.classes)
    except Exception as error:  # a plugin's code may fail in any way
        raise PluginError(
            f"{family.classes}, which registers the classes of the LLM family {family.name!r}, cannot be imported: "
            f"{type(error).__name__}: {error}",
            "`vpgt list-plugins` shows whose plugin it is; install it whole, or correct `classes` in it",
        ) from error


@dataclass(frozen=True)
class LLMCard:
    """One language model that a family knows by alias.

    Sizes are those of the published config; `vocab_size` is the number of rows of the word embedding table and
    `embedding_size` the width of what the LLM's first block reads, which is the projector's output size.
    """

    alias: Name
    hub_id: str
    parameters: Size
    hidden_size: Size
    layers: Size
    heads: Size
    intermediate_size: Size
    vocab_size: Size
    licence: str
    kv_heads: Size | None = None
    """Key/value heads where they are fewer than `heads` (grouped-query attention)."""
    config: dict[str, Any] = field(default_factory=dict)
    """Further config fields, under transformers' names, that change shapes (for instance OPT-350m's
    ``word_embed_proj_dim``)."""
    revision: str | None = None
    end_token: Annotated[int, Ge(0)] | None = None
    """Id of the token that ends a text (``eos_token_id``)."""
    checked: tuple[str, ...] = ()
    """Which of `FACTS` transformers' own config class states too; the others are as published."""
    also: tuple[str, ...] = ()
    """Further names of the same model (``vicuna-7b`` for its newest version)."""
    bundled: str | None = None
    """``"package:folder"`` for a model that ships inside a Python package instead of on the hub."""
    packaged: tuple[str, ...] = ()
    """``"package:file"`` of a GGUF file with its weights inside an installable package, or of the parts of one, in
    order; used where the packages are installed."""
    bos: BosOrder | None = None
    """Where its BOS stands if not where the family's does."""
    note: str = ""

    @property
    def embedding_size(self) -> int:
        return self.hidden_size


@dataclass(frozen=True)
class LLMFamily:
    """A family of language models and the adapter that runs them.

    `adapter` names a subclass of `vpgtrans_core.llm.adapter.LLM`; `model_types` are transformers'
    ``config.model_type`` values that belong to the family.
    """

    name: Name
    model_types: ModelTypes
    adapter: Target
    cards: tuple[LLMCard, ...] = ()
    encoder_decoder: bool = False
    half: Literal["float16", "bfloat16"] = "bfloat16"
    """The half precision of the frozen LLM on a GPU, ``"float16"`` or ``"bfloat16"`` (the paper: fp16 for OPT, bf16
    for FlanT5)."""
    compiles: bool = False
    """Whether long runs on a GPU compile its blocks: True where that was seen to be faster (LLaMA by a third; OPT,
    whose norms and activations are single kernels as they are, gains nothing)."""
    bos: BosOrder = "first"
    """Where BOS stands in texts with an image, if the tokenizer begins texts with one: ``"first"`` for
    LLMs whose first position is special (most), ``"after"`` for those that read BLIP-2's order as well (OPT)."""
    batch_size: Size = 1728
    """Captions a step in the paper's recipe."""
    question_prompt: str = "Question: {} Answer:"
    """The prompt for visual question answering at evaluation."""
    classes: ModuleOrNone = ""
    """A module that registers the family's config and model classes with transformers when it is imported, where
    transformers itself does not have them. It is imported before a config of the family is read."""


@dataclass(frozen=True)
class EmbeddingAccess:
    """How to read a family's word embeddings without loading the model.

    `reader` names a subclass of `vpgtrans_core.llm.embeddings.EmbeddingReader`: it says which tensors of the
    checkpoint it needs and makes of them the table ``[V, D]`` in the space that the LLM's first block sees.
    """

    model_types: ModelTypes
    reader: Target


@dataclass(frozen=True)
class SourceCard:
    """One trained VL-LLM (VPG + projector + LLM), or a VPG alone when `llm` is None."""

    alias: Name
    hub_id: str
    llm: str | None
    """The alias of its LLM; ``--from opt-2.7b`` finds the source by it."""
    licence: str
    image_size: Size = 224
    pretrained: str | None = None
    """The alias of the VPG as its pre-training left it, from which training from scratch (TFS) starts."""
    revision: str | None = None
    bundled: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """The VPG's sizes for planning without network: the family's own config fields."""
    note: str = ""
    data: TargetOrNone = ""
    """``"package.module:function"`` that returns the `Listing` of captioned images which come with a bundled source: a
    run to a bundled LLM that is given no data trains on them."""
    recipe: Literal["paper", "miniature"] = "paper"
    """The recipe of a run from this bundled source to a bundled LLM: ``"paper"`` or ``"miniature"``."""


@dataclass(frozen=True)
class VPGSizes:
    """The sizes asked of a VPG that is made from nothing; None leaves one to its family."""

    image_size: Size | None = None
    """Side of the images, in pixels."""
    patch_size: Size | None = None
    vision_width: Size | None = None
    """Of the frozen part, which looks at the image."""
    vision_layers: Size | None = None
    vision_heads: Size | None = None
    width: Size | None = None
    """Of the trained part, and of the VPG's output."""
    layers: Size | None = None
    heads: Size | None = None
    queries: Size | None = None
    """Soft prompts an image."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None


@dataclass(frozen=True)
class VPGFamily:
    """A family of visual prompt generators and the adapter that loads, runs and saves them.

    `adapter` names a subclass of `vpgtrans_core.vpg.adapter.VPG`; `model_types` are the ``model_type`` values of
    model folders that hold a VL-LLM of this family.
    """

    name: Name
    model_types: ModelTypes
    adapter: Target
    sources: tuple[SourceCard, ...] = ()
    tiles: TargetOrNone = ""
    """The adapter that cuts pictures into tiles, where `adapter` reads each as one and the user can choose (--tiles).
    Folders of it have ``"tiles": true`` in their config.json."""
    llm_trunk: str = ""
    """What the names of the language model's body begin with in a whole VL-LLM's folder, where transformers' class has
    a bare model and a head (``model.text_model.``); empty for a folder with the whole LLM under ``language_model.``."""
    llm_head: str = ""
    """What the names of its head begin with there (``lm_head.``)."""
    bos: BosOrder = "after"
    """Where BOS stands in trained VL-LLMs of this family whose folder does not state it: BLIP-2's have it after the
    image, LLaVA's first."""
    refused: tuple[tuple[str, str], ...] = ()
    """Model types of other VL-LLMs that cannot be sources or targets, each with the reason in one sentence."""
    pretraining: TargetOrNone = ""
    """A subclass of `vpgtrans_core.vpg.pretraining.Pretraining`, for a family whose VPGs ``vpgt init-vpg`` can make
    from nothing and pre-train."""


@dataclass(frozen=True)
class Command:
    """An extra command of the CLI: ``vpgt NAME ...`` calls the Typer app or function that `target` names."""

    name: Name
    target: Target
    help: str = ""


@dataclass(frozen=True)
class EvalTask:
    """A task of ``vpgt eval``: what is asked about which images, and by which metrics the answers are judged.

    `target` names a subclass of `vpgtrans_core.evaluation.task.Task`; `metrics` are names of `EvalMetric`s, the one
    that papers quote first.
    """

    name: Name
    target: Target
    metrics: tuple[str, ...]
    help: str = ""
    wants: str = ""
    """What ``--data`` has to give, in a few words; empty for a task that brings its own."""


@dataclass(frozen=True)
class EvalMetric:
    """A metric of ``vpgt eval``: `target` names a subclass of `vpgtrans_core.evaluation.metrics.metric.Metric`."""

    name: Name
    target: Target
    help: str = ""


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run, told to every observer.

    `kind` is one of ``"run_start"``, ``"stage_start"``, ``"step"``, ``"validation"``, ``"checkpoint"``,
    ``"stage_end"``, ``"sight"`` (at the end of a stage), ``"samples"`` (``said`` of the watched pictures),
    ``"run_end"``, ``"run_failed"``; `values` holds plain numbers and strings; `folder` is the run's
    output folder.
    """

    kind: str
    folder: str
    stage: int | None = None
    step: int | None = None
    values: dict[str, Any] = field(default_factory=dict)

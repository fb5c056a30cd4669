"""From resolved names to modules in memory: the VPG, the frozen LLM, the source's words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import LLM_PREFIX, REFERENCES
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.empty import check_size, empty_model, silence
from vpgtrans_core.llm.float8 import use_float8
from vpgtrans_core.llm.loading import keep_differentiable, load_model, quantized_options
from vpgtrans_core.llm.lora import Lora, apply_adapter
from vpgtrans_core.llm.placing import Placement, placement, shares
from vpgtrans_core.llm.shards import Shards, sum_by_blocks
from vpgtrans_core.machine import Machine
from vpgtrans_core.models.resolve import resolve_source
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.processes.lockstep import Lockstep
from vpgtrans_core.recipes.adapters import lora_rank
from vpgtrans_core.recipes.holding import FLOAT8, SPILLS
from vpgtrans_core.recipes.stage import Stage
from vpgtrans_core.registry import Registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import usable_template
from vpgtrans_core.vlm.model import VLModel
from vpgtrans_core.vpg.adapter import VPG
from vpgtrans_core.vpg.whole import trunk_and_head
from vpgtrans_core.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from vpgtrans_core.llm.embeddings import Embeddings


GRADIENT_AND_STATE = 12
"""Bytes that a trained parameter takes besides itself: its gradient and AdamW's two averages."""


@dataclass(frozen=True)
class SourceWords:
    """The parts of the source that initialise the projector: its projector, its LLM's words and tokenizer."""

    projector: tuple[Tensor, Tensor]
    words: Embeddings
    tokenizer: PreTrainedTokenizerBase


def load_llm(llm: ResolvedLLM, machine: Machine, settings: Settings, vpg: VPG | None = None) -> LLM:
    """Load a frozen LLM from its own folder, or out of a VL-LLM's, with the LoRA adapter that is kept for it.

    Args:
        vpg: the one that is to be trained in front of it, if any.
    """
    adapter = load(llm.family.adapter)
    later = GRADIENT_AND_STATE * sum(p.numel() for _, p in vpg.trained()) if vpg is not None else 0
    placed = placement(settings.place, machine.device, later)
    quantization = _bits(settings)
    loaded: LLM = adapter.load(
        llm.folder,
        family=llm.family,
        dtype=machine.dtype,
        device=machine.device,
        model=_model(llm, adapter, machine, settings, placed),
        share=settings.share_prefix,
        quantization=quantization,
        trust_remote_code=settings.trust_remote_code,
    )
    rounds = machine.device.type == "cuda" if settings.round_rows is None else settings.round_rows
    if rounds:
        loaded.round_rows()
    if machine.mesh is not None or settings.quantization == FLOAT8:
        loaded.whole = lambda: adapter.prepare(_whole_model(llm, adapter, machine, settings))
    if machine.accelerator.num_processes > 1 and machine.mesh is None and llm.family.encoder_decoder:
        sum_by_blocks(loaded.model)
    if llm.adapter is not None:
        apply_adapter(loaded, llm.adapter, merge=quantization is None)
    if vpg is not None and (settings.checkpoint_activations or settings.place == SPILLS):
        loaded.checkpoint_activations()  # what is computed with weights from host memory would be kept on the GPU
    return loaded


def _bits(settings: Settings) -> str | None:
    """How the weights are packed while they are read: ``8bit``, ``4bit``, or None."""
    return None if settings.quantization in ("none", FLOAT8) else settings.quantization


def _model(
    llm: ResolvedLLM, adapter: Any, machine: Machine, settings: Settings, placed: Placement | None
) -> PreTrainedModel | None:
    """The LLM's model where it is not simply its folder's on one device; None where it is, for the adapter to read."""
    if machine.mesh is not None:
        return _model_in_shards(llm, adapter, machine, settings)
    if settings.quantization == FLOAT8:
        return _model_in_float8(llm, adapter, machine, settings)
    if llm.prefix or placed is not None:
        return _read(llm, adapter, machine, settings, placed=placed, quantization=_bits(settings))
    return None


def _model_in_shards(llm: ResolvedLLM, adapter: Any, machine: Machine, settings: Settings) -> PreTrainedModel:
    """An LLM of which this process reads its part.

    Raises:
        ModelError: it has something that cannot be cut.
    """
    from vpgtrans_core.llm.frozen import FrozenLLM  # with it comes transformers

    if not issubclass(adapter, FrozenLLM):
        raise ModelError(f"{adapter.__name__} cannot shard its LLM", "its adapter can derive from `DecoderOnlyLLM`")
    if llm.adapter is not None:
        raise ModelError(f"{llm.name} has a LoRA adapter, which cannot be merged into shards", "leave --shard out")
    assert machine.mesh is not None
    shards = Shards(Lockstep(machine.accelerator, machine.mesh))
    return _read(llm, adapter, machine, settings, shards=shards)


def _model_in_float8(llm: ResolvedLLM, adapter: Any, machine: Machine, settings: Settings) -> PreTrainedModel:
    """An LLM whose blocks' products are in float8; it is read into host memory and goes to the GPU block by block.

    Raises:
        ModelError: it has something that cannot compute so.
    """
    if llm.adapter is not None:
        raise ModelError(
            f"{llm.name} has a LoRA adapter, which cannot be merged into weights in float8",
            "leave --quantization float8 out",
        )
    model = _whole_model(llm, adapter, machine, settings)
    use_float8(model, machine.device)
    return model


def _whole_model(llm: ResolvedLLM, adapter: Any, machine: Machine, settings: Settings) -> PreTrainedModel:
    """The LLM's model, whole, on the CPU and with weights that are not rounded, from its own files."""
    here = dataclasses.replace(machine, device=torch.device("cpu"), mesh=None)
    return _read(llm, adapter, here, settings)


def _read(
    llm: ResolvedLLM,
    adapter: Any,
    machine: Machine,
    settings: Settings,
    *,
    placed: Placement | None = None,
    quantization: str | None = None,
    shards: Shards | None = None,
) -> PreTrainedModel:
    """The LLM's model from its folder or out of a VL-LLM's, as `load_model` reads it."""
    if llm.prefix:
        return _inner_model(llm, adapter, machine, placed, quantization, shards)
    return load_model(
        llm.folder or "",
        adapter.auto_class(),
        dtype=machine.dtype,
        device=machine.device,
        quantization=quantization,
        keep_precise=adapter.keep_precise,
        trust_remote_code=settings.trust_remote_code,
        placement=placed,
        shards=shards,
    )


def stage_lora(llm: LLM, settings: Settings, stages: Sequence[Stage]) -> Lora | None:
    """The adapters that the stages of a run train in its LLM; None for none."""
    rank = lora_rank(settings.lora, stages)
    return None if rank is None else Lora(llm, rank, settings.seed)


def micro_positions(machine: Machine, llm: LLM, settings: Settings) -> int:
    """LLM positions of a micro-batch: the settings', else what the fullest device allows."""
    config = llm.model.config.get_text_config()
    recomputes = settings.place == SPILLS
    return settings.micro_positions or machine.positions_at_once(
        config.num_hidden_layers, config.hidden_size, shares(llm.model), recomputes=recomputes
    )


def _inner_model(
    llm: ResolvedLLM,
    adapter: Any,
    machine: Machine,
    placed: Placement | None,
    quantization: str | None,
    shards: Shards | None,
) -> PreTrainedModel:
    """The language model inside a VL-LLM's folder, read by its prefix; nothing else of the folder is loaded."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**llm.config)
    check_size(str(llm.folder), config, Weights(str(llm.folder)))
    if placed is not None and quantization is None:
        placed.check_size(empty_model(config), machine.dtype)
    options = quantized_options(quantization, machine.dtype, machine.device, adapter.keep_precise)
    with silence():  # transformers reports the VPG's tensors, which are not the LLM's, as unexpected
        reader = adapter.auto_class() if shards is None else shards.reader(config)
        model, report = reader.from_pretrained(
            str(llm.folder),
            config=config,
            dtype=machine.dtype,
            key_mapping=inner_names(config, llm),
            output_loading_info=True,
            **(options | placed.options if placed is not None else options),
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{llm.folder} lacks weights of its language model: {', '.join(missing[:8])}")
    if placed is not None:
        placed.check_map(model)
    if quantization is not None:
        keep_differentiable(model)
    return (model if placed is not None or quantization else model.to(machine.device)).eval()


def inner_names(config: PreTrainedConfig, llm: ResolvedLLM) -> dict[str, str]:
    """The patterns of an LLM's names in a VL-LLM's folder, and what its own class calls them by."""
    if not llm.head:
        return {"^" + re.escape(llm.prefix): ""}
    trunk, head = trunk_and_head(empty_model(config))
    return {"^" + re.escape(llm.prefix): trunk + ".", "^" + re.escape(llm.head): head + "."}


def load_vpg(source: ResolvedSource, machine: Machine, *, lazily: bool = False) -> VPG:
    """Load a source's VPG in evaluation mode; `lazily` leaves its frozen part on disk until pixels come."""
    adapter = load(source.vpg_family.adapter)
    read = adapter.load_lazily if lazily else adapter.load
    vpg: VPG = read(source.folder, dtype=machine.dtype, device=machine.device)
    return vpg


def load_whole(source: ResolvedSource, machine: Machine, settings: Settings, *, lazily: bool = False) -> VLModel:
    """Load a whole VL-LLM for inference; `lazily` leaves the VPG's frozen part on disk until pixels come.

    Raises:
        ModelError: it is a VPG alone, or its projector does not fit its language model.
    """
    if source.llm is None:
        raise ModelError(
            f"{source.name} is a VPG without a language model: it generates no text", "transfer it to an LLM first"
        )
    projector = load(source.vpg_family.adapter).load_projector(source.folder)
    vpg, llm = load_vpg(source, machine, lazily=lazily), load_llm(source.llm, machine, settings)
    if projector is None or projector[0].shape != (llm.embedding_size, vpg.output_size):
        raise ModelError(f"{source.name} has no projector that fits its language model")
    template = usable_template(settings.template, llm.tokenizer, source.folder)
    made = projector_module(projector[0], projector[1], machine.device, has_bias=vpg.projector_bias)
    model = VLModel(vpg, made, llm, template)
    model.requires_grad_(False)
    return model.eval()


def vpg_source(
    source: ResolvedSource, settings: Settings, registry: Registry, *, weights: bool = True
) -> ResolvedSource:
    """The model to take the VPG from: the source itself, or for training from scratch its pre-trained VPG.

    Raises:
        ModelError: the source's pre-trained VPG is not known.
    """
    if settings.method != "scratch" or source.llm is None:
        return source
    if source.pretrained is None:
        raise ModelError(
            f"training from scratch needs the pre-trained VPG, and {source.name} does not name one",
            "import one (`vpgt import blip2_pretrained.pth ...`) and give its folder as --from",
        )
    try:
        return resolve_source(source.pretrained, registry, settings, weights=weights)
    except ModelError as error:
        raise ModelError(
            f"training from scratch starts at the VPG that {source.name} began with: {error.message}",
            f"put it back, give it as --from, or correct 'pretrained' in {REFERENCES} of {source.name}",
        ) from error


def source_projector(source: ResolvedSource) -> tuple[Tensor, Tensor] | None:
    """The projector of a source's folder; None where it has none."""
    projector: tuple[Tensor, Tensor] | None = load(source.vpg_family.adapter).load_projector(source.folder)
    return projector


def source_words(
    source: ResolvedSource, registry: Registry, projector: tuple[Tensor, Tensor] | None = None
) -> SourceWords:
    """Read the source's projector (if none is given) and its LLM's word embeddings; the rest of its LLM is not read.

    Raises:
        ModelError: the source is a VPG alone, or its LLM's weights are not there.
    """
    from vpgtrans_core.llm.embeddings import EmbeddingReader, open_embeddings
    from vpgtrans_core.llm.loading import load_tokenizer

    projector = projector or source_projector(source)
    if projector is None or source.llm is None or source.llm.folder is None:
        raise ModelError(
            f"{source.name} has no projector that could be converted for the target LLM",
            "use --start random, or --method scratch or inherit",
        )
    access = registry.embedding_access(str(source.llm.config.get("model_type")), source.llm.plugin)
    reader = load(access.reader) if access else EmbeddingReader
    words = open_embeddings(source.llm.folder, reader, prefix=source.llm.prefix or LLM_PREFIX)
    if words.shape[1] != projector[0].shape[0]:
        raise ModelError(
            f"the source's projector ends in {projector[0].shape[0]} dimensions, its LLM's words have {words.shape[1]}",
            "the projector belongs to another LLM; --start random does not use it",
        )
    return SourceWords(projector, words, load_tokenizer(source.llm.folder))


def blank_projector(output_size: int, embedding_size: int, *, has_bias: bool = True) -> torch.nn.Linear:
    """A projector of zeros ``[embedding_size, output_size]``, to be filled by initialisation or a checkpoint."""
    weight, bias = torch.zeros(embedding_size, output_size), torch.zeros(embedding_size)
    return projector_module(weight, bias, torch.device("cpu"), has_bias=has_bias)


def projector_module(weight: Tensor, bias: Tensor, device: torch.device, *, has_bias: bool = True) -> torch.nn.Linear:
    """A projector as a module: fp32 weight ``[D_llm, D]`` and, if it has one, bias ``[D_llm]`` on `device`."""
    projector = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias, device=device)
    fill_projector(projector, weight, bias)
    return projector


@torch.no_grad()
def fill_projector(projector: torch.nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Copy values into a projector; one without a bias takes the weight alone."""
    projector.weight.copy_(weight)
    if projector.bias is not None:
        projector.bias.copy_(bias)

"""Parts of writing a whole VL-LLM that the families have in common: which LLM is written, what it must be, and where
its tensors go in a class of transformers that puts a vision model beside a bare language model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import LLM_PREFIX, REFERENCES
from vpgtrans_core.llm.empty import empty_model, silence
from vpgtrans_core.llm.placing import state_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

    from vpgtrans_core.llm.adapter import LLM
    from vpgtrans_core.vpg.image_token import ImageToken

LOGIT_FACTORS = {"logits_scaling": -1, "logit_scale": 1}
"""Fields of LLMs' configs that multiply their logits, by the power with which they do."""
MOST_LAYERS = 6
"""Layers of a twin at most."""
SAME_LOGITS = 1e-4
"""Difference of logits, relative to the largest, below which two models compute the same."""
TINY: dict[int, tuple[str, ...]] = {
    32: ("hidden_size", "word_embed_proj_dim", "n_embd", "hidden_size_per_layer_input"),
    48: ("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size", "shared_expert_intermediate_size"),
    2: ("num_hidden_layers", "n_layer", "num_key_value_heads", "num_experts_per_tok"),
    4: ("num_attention_heads", "n_head", "num_experts", "num_local_experts"),
    8: ("head_dim",),
    64: ("max_position_embeddings", "n_positions", "original_max_position_embeddings"),
    72: ("vocab_size", "vocab_size_per_layer_input"),
}
"""The sizes of a twin, by the names that configs keep them under."""
MEANINGS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")


def unquantised(llm: LLM, reference: dict[str, Any]) -> PreTrainedModel:
    """The LLM's model as it is to be written; loaded anew where the one at work is quantised or in shards."""
    if llm.whole is not None:
        return llm.whole()
    place = unquantised_place(llm, reference)
    return llm.model if place is None else type(llm).load(place, family=llm.family, dtype=llm.model.dtype).model


def unquantised_place(llm: LLM, reference: dict[str, Any]) -> Path | None:
    """The folder of the LLM that is at work quantised; None for one that is not."""
    if not getattr(llm.model, "is_quantized", False):
        return None
    if reference.get("prefix"):
        raise ModelError("a quantised LLM from inside a VL-LLM cannot be written", "save with --save vpg instead")
    return referred_folder(reference, Path())


def check_width(model: PreTrainedModel, projector: nn.Linear, what: str) -> None:
    """Whether the LLM has one width only, as transformers' class, called `what`, wants it.

    Raises:
        ModelError: it has several.
    """
    width, table = model.config.hidden_size, cast(Tensor, model.get_input_embeddings().weight)
    if projector.out_features != width or table.shape[1] != width:
        raise ModelError(
            f"the LLM's blocks are {width} wide, its embeddings {table.shape[1]} and the "
            f"projector's output {projector.out_features}: transformers' {what} needs one width",
            "save with --save vpg instead",
        )


def check_loadable(model: PreTrainedModel) -> None:
    """Whether the class that the config names has a place for every tensor of the LLM (an adapter's it has not)."""
    if not type(model).__module__.startswith("transformers."):
        return  # code that came with the model
    places = {name: value.shape for name, value in empty_model(model.config).state_dict().items()}
    given = {name: value.shape for name, value in model.state_dict().items()}
    strange = [LLM_PREFIX + name for name, shape in given.items() if places.get(name) != shape]
    if strange:
        raise ModelError(
            f"{len(strange)} tensors of the language model do not exist in {type(model).__name__}, so nothing would "
            f"load them: {', '.join(strange[:4])}",
            "if it has a PEFT adapter, merge that first; --save vpg saves without the language model",
        )


def used_ids(model: PreTrainedModel, settings: dict[str, Any]) -> set[int]:
    """Ids that mean something in a text: its start and ends. (What pads a text is the tokenizer's own affair.)"""
    values = [getattr(model.config, name, None) for name in MEANINGS] + [settings.get(name) for name in MEANINGS]
    return {i for value in values if value is not None for i in (value if isinstance(value, list) else [value])}


def generation_config(settings: dict[str, Any], token: ImageToken) -> GenerationConfig:
    """The folder's generation config; a row that was added for ``<image>`` or another token is never said."""
    from transformers import GenerationConfig

    suppressed = {"suppress_tokens": list(token.added)} if token.added else {}
    return GenerationConfig(**{k: v for k, v in settings.items() if v is not None}, **suppressed)


def referred_folder(reference: dict[str, Any], base: Path) -> Path:
    """The local folder that a reference means: its ``folder`` (relative to `base`), or its ``id`` from the hub's cache.

    Raises:
        ModelError: it is not on this machine.
    """
    place = reference.get("folder")
    if place and (base / place).is_dir():
        return base / place
    if name := reference.get("id"):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, revision=reference.get("revision"), local_files_only=True))
        except Exception as error:  # the hub's library raises many kinds when something is not cached
            raise ModelError(
                f"{base} refers to {name}, which is not on this machine",
                f"download it: hf download {name}",
            ) from error
    raise ModelError(
        f"{base} refers to {place or 'a model'}, which does not exist", f"correct the path in {base / REFERENCES}"
    )


# A bare LLM with a plain head


def trunk_and_head(model: PreTrainedModel) -> tuple[str, str]:
    """The names of an LLM's body and of its head among its modules.

    Raises:
        ModelError: it has no body under its class's prefix, or no head.
    """
    trunk = model.base_model_prefix
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head]
    if head is None or not names or trunk not in dict(model.named_children()):
        raise ModelError(f"{type(model).__name__} is not a body with a head beside it")
    return trunk, names[0]


def written_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of an LLM as it stands in a folder whose class has a plain head: untied, and with no factor on its
    logits, which `written_head` has multiplied into the head."""
    text = copy.deepcopy(config)
    text.tie_word_embeddings = False
    for name in LOGIT_FACTORS:
        if getattr(text, name, None) is not None:
            setattr(text, name, type(getattr(text, name))(1))
    return text


def written_head(model: PreTrainedModel) -> Tensor:
    """The head's weight ``[V, D]`` that gives an LLM's logits without a factor on them."""
    factor = 1.0
    for name, power in LOGIT_FACTORS.items():
        if (value := getattr(model.config, name, None)) is not None:
            factor *= float(value) ** power
    weight = state_of(model)[f"{trunk_and_head(model)[1]}.weight"]
    return weight if factor == 1.0 else weight * factor


def bare_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of an LLM's body under the names of its bare class, head left out."""
    trunk = f"{trunk_and_head(model)[0]}."
    return {name.removeprefix(trunk): t for name, t in state_of(model).items() if name.startswith(trunk)}


def why_other_logits(
    config: PreTrainedConfig, whole: Callable[[PreTrainedConfig], tuple[nn.Module, nn.Module, nn.Module]]
) -> str | None:
    """Compare, at tiny size with random weights, what a written VL-LLM computes of text with the LLM's own class.

    Args:
        config: the LLM's.
        whole: builds transformers' class around an LLM's config; returns the whole model, its LLM's body and its head.

    Returns:
        why the class cannot stand for the LLM, in one sentence; None where the logits agree.
    """
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder:
        return f"{config.model_type} has an encoder, and the class has room for a decoder only"
    try:
        with torch.random.fork_rng(devices=[]), silence():
            torch.manual_seed(0)
            twin = tiny_twin(config)
            own = AutoModelForCausalLM.from_config(twin, attn_implementation="eager").float().eval()
            _draw(own)
            model, trunk, head = whole(written_config(twin))
            trunk.load_state_dict(bare_tensors(own))
            with torch.no_grad():
                cast(Tensor, head.weight).copy_(written_head(own))
            ids = torch.randint(3, twin.vocab_size, (2, 9))
            with torch.no_grad():
                wanted, given = (m.float().eval()(input_ids=ids).logits for m in (own, model))
    except Exception as error:  # transformers' classes fail in as many ways as there are configs
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return f"the class fails with a tiny {config.model_type} inside ({cause})"
    gap = float((wanted - given).abs().max())
    if gap > SAME_LOGITS * float(wanted.abs().max()):
        return f"the class would compute other logits than {config.model_type}'s own (off by {gap:.2g} at tiny size)"
    return None


def tiny_twin(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config with small sizes; whatever else it says (factors, caps, norms) stays."""
    values = config.to_dict()
    for size, names in TINY.items():
        values |= {name: size for name in names if isinstance(values.get(name), int)}
    each_layer = {n: v for n, v in values.items() if isinstance(v, list) and len(v) == config.num_hidden_layers}
    if each_layer:
        kinds = list(zip(*each_layer.values(), strict=True))
        places = sorted({kinds.index(kind) for kind in kinds})[:MOST_LAYERS]  # one layer of each kind
        places += places[:1] if len(places) == 1 else []
        values |= {name: [value[place] for place in places] for name, value in each_layer.items()}
        values["num_hidden_layers"] = len(places)
    for name in values:
        if name.endswith("token_id"):
            values[name] = None
    return type(config).from_dict(values)


def _draw(model: nn.Module) -> None:
    """Draw every parameter, so that none hides by being zero or one."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)

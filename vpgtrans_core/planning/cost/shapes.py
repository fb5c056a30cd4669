"""The sizes of a language model that decide its cost, from its config: the model is built on the meta device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vpgtrans_core.cards import load

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PROBE = (3, 2)
"""Positions of encoder and decoder in the forward pass that finds which layers read which."""


@dataclass(frozen=True)
class LLMShape:
    """Sizes of one language model.

    Attributes:
        parameters: all of them, shared ones once.
        loaded: parameters of the model as its adapter prepares it, which is what takes memory.
        embedding_size: the width of what the first block reads: the projector's output size.
        vocab_size: rows of the word embedding table.
        embedding_weights: weights of the table (and of the head where it is not tied): never quantised.
        head_weights: weights of the head, read once for each label.
        layers, encoder_layers: blocks of the decoder and of the encoder (0 for decoder-only LLMs).
        attention_width: heads times head width.
        weights: matrix weights that each position of the decoder passes, the head not included.
        encoder_weights: those that each position of the encoder passes; the decoder's keys and values of it included.
        lora_weights: parameters of LoRA adapters of rank 1 in its attention.
    """

    parameters: int
    loaded: int
    embedding_size: int
    vocab_size: int
    embedding_weights: int
    head_weights: int
    layers: int
    encoder_layers: int
    attention_width: int
    weights: int
    encoder_weights: int
    lora_weights: int = 0

    @property
    def encoder_decoder(self) -> bool:
        return self.encoder_layers > 0


def meta_llm(config: PreTrainedConfig, *, attention: str | None = "eager") -> Any:
    """Build the whole LLM without memory for its weights.

    Raises:
        ModelError: transformers has no language model for this config.
    """
    from vpgtrans_core.llm.empty import empty_model

    return empty_model(config, attention=attention).eval().requires_grad_(False)


def llm_shape(values: dict[str, Any], adapter: str) -> LLMShape:
    """Read the sizes of a language model off its meta-device twin.

    Args:
        values: the content of its ``config.json``.
        adapter: its family's, which may change the model before it is used.

    Raises:
        ModelError: transformers has no language model for this config.
    """
    return _llm_shape(json.dumps(values, sort_keys=True, default=str), adapter)


@lru_cache(maxsize=64)
def _llm_shape(content: str, adapter: str) -> LLMShape:
    import torch

    values = json.loads(content)
    from vpgtrans_core.llm.empty import config_of
    from vpgtrans_core.llm.lora import lora_parameters

    config = config_of(values)
    model = meta_llm(config)
    published = _parameters(model)
    with torch.device("meta"):
        model = load(adapter).prepare(model)
    text = config.get_text_config()
    decoder = config.get_text_config(decoder=True)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights, encoder_weights = _matrix_weights(model)
    # T5's class ties its head by force; what is loaded follows the checkpoint, whose config says that it is not tied.
    untied = head.numel() if head is table and values.get("tie_word_embeddings") is False else 0
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return LLMShape(
        parameters=published + untied,
        loaded=_parameters(model) + untied,
        embedding_size=text.hidden_size,
        vocab_size=table.shape[0],
        embedding_weights=table.numel() + (untied if head is table else head.numel()),
        head_weights=head.numel(),
        layers=getattr(decoder, "num_decoder_layers", None) or decoder.num_hidden_layers,
        encoder_layers=text.num_hidden_layers if config.is_encoder_decoder else 0,
        attention_width=heads * head_width,
        weights=weights,
        encoder_weights=encoder_weights,
        lora_weights=lora_parameters(model),
    )


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _matrix_weights(model: Any) -> tuple[int, int]:
    """Weights of all linear layers that run over the decoder's and over the encoder's positions.

    A forward pass with different numbers of both tells which is which: no family's layer names are needed.
    """
    import torch

    inner, outer = _PROBE
    sizes = {inner: 0, outer: 0}
    head = model.get_output_embeddings()

    def count(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        weight = getattr(module, "weight", None)
        positions = output.shape[:-1].numel() if isinstance(output, torch.Tensor) else 0
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and positions in sizes:
            sizes[positions] += weight.numel()

    layers = [m for m in model.modules() if _is_matrix(m) and m is not head]
    handles = [m.register_forward_hook(count) for m in layers]
    try:
        with torch.no_grad():
            _probe(model, inner, outer)
    finally:
        for handle in handles:
            handle.remove()
    return (sizes[outer], sizes[inner]) if model.config.is_encoder_decoder else (sizes[outer], 0)


def _is_matrix(module: Any) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def _probe(model: Any, encoder: int, decoder: int) -> None:
    """A forward pass on the meta device."""
    import torch

    width = model.get_input_embeddings().weight.shape[1]

    def states(length: int) -> torch.Tensor:
        return torch.empty(1, length, width, device="meta", dtype=model.dtype)

    if model.config.is_encoder_decoder:
        model(inputs_embeds=states(encoder), decoder_inputs_embeds=states(decoder), use_cache=False)
    else:
        mask = torch.ones(1, decoder, dtype=torch.long, device="meta")
        model.base_model(inputs_embeds=states(decoder), attention_mask=mask, use_cache=False)

"""A small decoder on transformers' base classes: learned positions, squared ReLU, one projection for query, key, value.

What vpgt needs of a class is what `generate` and `save_pretrained` need, and that its blocks can be found.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast


class SketchConfig(PreTrainedConfig):
    model_type = "sketch"

    vocab_size: int = 32000
    hidden_size: int = 512
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class SketchBlock(GradientCheckpointingLayer):  # by this base class vpgt finds the blocks
    def __init__(self, config: SketchConfig, number: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads, self.number = config.num_attention_heads, number
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, hidden: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        split = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, width of a head]
        if cache is not None:
            key, value = cache.update(key, value, self.number)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        hidden = hidden + self.out(seen.transpose(1, 2).flatten(2))
        return hidden + self.down(functional.relu(self.up(self.mlp_norm(hidden))).square())


class SketchPreTrainedModel(PreTrainedModel):
    config_class = SketchConfig
    base_model_prefix = "model"  # the child whose output the head reads
    _supports_sdpa = True


class SketchModel(SketchPreTrainedModel):
    """The trunk. vpgt calls it with `inputs_embeds`, a mask, and `position_ids` of its own."""

    def __init__(self, config: SketchConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(SketchBlock(config, number) for number in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,  # [B, L] for padding, or a ready [B, 1, L, L]
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = True,
        **unused: Any,
    ) -> BaseModelOutputWithPast:
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            allow_is_causal_skip=False,
        )
        hidden = hidden + self.positions(position_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class SketchForCausalLM(SketchPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SketchConfig) -> None:
        super().__init__(config)
        self.model = SketchModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        read = self.model(**inputs)
        logits = self.lm_head(read.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=read.past_key_values)


AutoConfig.register("sketch", SketchConfig, exist_ok=True)
AutoModel.register(SketchConfig, SketchModel, exist_ok=True)
AutoModelForCausalLM.register(SketchConfig, SketchForCausalLM, exist_ok=True)

"""Tiny random ViTs, Q-Formers, LLMs and whole BLIP-2 models, built offline."""

from __future__ import annotations

import dataclasses
import importlib

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from vpgtrans_core.cards import load

VISION = {
    "hidden_size": 24,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.1,
}
QFORMER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "encoder_hidden_size": 24,
    "initializer_range": 0.1,
}
VPG_CONFIG = {"model_type": "blip-2", "num_query_tokens": 4, "vision_config": VISION, "qformer_config": QFORMER}

TEXT = {
    "opt": {
        "hidden_size": 40, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 40,
        "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "init_std": 0.2,
    },
    "llama": {
        "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2,
        "max_position_embeddings": 64,
    },
    "t5": {
        "d_model": 40, "d_kv": 10, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    },
}  # fmt: skip
VOCABULARY = 61


def text_config(kind: str, **changes):
    return AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, **TEXT[kind], **changes})


def blip2(kind: str = "opt", seed: int = 0, **changes) -> Blip2ForConditionalGeneration:
    """A random BLIP-2 in evaluation mode; every parameter is drawn, so that none hides by being zero or one."""
    torch.manual_seed(seed)
    config = Blip2Config(
        vision_config=VISION,
        qformer_config=QFORMER,
        text_config=text_config(kind, **changes).to_dict(),
        num_query_tokens=4,
        image_token_index=VOCABULARY - 1,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    shake(model)
    return model


def shake(module: torch.nn.Module, scale: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


def tokenizer(kind: str = "opt", words: int = VOCABULARY - 4) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with `words` words, ``w5``, ``w6``..., in each family's habits."""
    special = {
        "opt": ["<s>", "<pad>", "</s>", "<unk>"],
        "llama": ["<unk>", "<s>", "</s>"],
        "t5": ["<pad>", "</s>", "<unk>"],
    }[kind]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(len(special), words))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"opt": "</s> $A", "llama": "<s> $A", "t5": "$A </s>"}[kind]
    backend.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[(t, vocabulary[t]) for t in special]
    )
    names = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>" if "<pad>" in special else "</s>"}
    if kind != "t5":
        names["bos_token"] = "</s>" if kind == "opt" else "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right" if kind == "t5" else "left", **names)


def save_llm(folder, kind: str = "opt", *, words: int = VOCABULARY - 4, tied: bool = True, **changes):
    """A folder with a random LLM and its tokenizer."""
    torch.manual_seed(1)
    config = text_config(kind, **changes)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    if kind == "t5" and not tied:  # transformers ties them on making, and unties what it loads
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 40))
    shake(model)
    model.save_pretrained(folder)
    tokenizer(kind, words).save_pretrained(folder)
    return folder


FAMILIES = {
    "opt": ("llm_opt", "opt"),
    "llama": ("llm_llama", "llama"),
    "t5": ("llm_t5", "t5"),
}


def load_llm(folder, kind: str, **changes):
    """The LLM of a folder through its family's adapter; `changes` are the family's."""
    plugin, name = FAMILIES[kind]
    families = importlib.import_module(plugin).vpgt_llm_families()
    family = next(f for f in families if f.name == name)
    return load(family.adapter).load(folder, family=dataclasses.replace(family, **changes))

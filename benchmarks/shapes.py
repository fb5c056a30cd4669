"""Models of stated shapes with random weights, and captions of the lengths that real ones have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from vpg_llava.adapter import LlavaVPG
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.cards import load
from vpgtrans_core.llm.text import Text
from vpgtrans_core.registry import default_registry
from vpgtrans_core.vlm.model import VLModel
from vpgtrans_core.vpg.adapter import VPG

FAMILIES = ("opt", "llama", "t5")
CAPTIONS_AN_IMAGE = 5
TOKENS = range(9, 18)
"""Tokens of a caption, start and end included: 13 on average, as COCO's captions have."""

VIT_TINY = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
}
VIT_MID = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VIT_G = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
QFORMER_TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BERT_BASE: dict[str, Any] = {}
CLIP_TINY = {**VIT_TINY, "patch_size": 7}
CLIP_SMALL = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 3}
"""A small ViT on LLaVA's grid: 336 px in patches of 14 are 576 soft prompts."""


def _opt(width: int, layers: int, heads: int, vocab: int = 50272) -> dict[str, Any]:
    return {
        "hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocab,
    }  # fmt: skip


def _llama(width: int, layers: int, heads: int, inner: int, vocab: int = 32000) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "vocab_size": vocab, "tie_word_embeddings": False,
    }  # fmt: skip


def _t5(width: int, layers: int, heads: int, inner: int, vocab: int = 32128) -> dict[str, Any]:
    return {
        "d_model": width, "d_kv": 64 if width > 64 else 8, "d_ff": inner, "num_layers": layers, "num_heads": heads,
        "vocab_size": vocab, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 0, "dropout_rate": 0.0,
    }  # fmt: skip


SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None]] = {
    "tiny-opt": ("opt", _opt(32, 2, 2, 120), VIT_TINY, QFORMER_TINY),
    "tiny-llama": ("llama", _llama(32, 2, 2, 48, 120), VIT_TINY, QFORMER_TINY),
    "tiny-t5": ("t5", _t5(32, 2, 4, 48, 120), VIT_TINY, QFORMER_TINY),
    "mid-opt": ("opt", _opt(768, 12, 12), VIT_MID, BERT_BASE),
    "mid-llama": ("llama", _llama(768, 12, 12, 2048), VIT_MID, BERT_BASE),
    "mid-t5": ("t5", _t5(768, 12, 12, 2048), VIT_MID, BERT_BASE),
    "tiny-llava": ("llama", _llama(32, 2, 2, 48, 120), CLIP_TINY, None),
    "small-llava": ("llama", _llama(256, 6, 4, 688), {"image_size": 336, "patch_size": 14, **CLIP_SMALL}, None),
    "opt-2.7b": ("opt", _opt(2560, 32, 32), VIT_G, BERT_BASE),
    "opt-6.7b": ("opt", _opt(4096, 32, 32), VIT_G, BERT_BASE),
    "llama-7b": ("llama", _llama(4096, 32, 32, 11008), VIT_G, BERT_BASE),
    "flan-t5-xl": ("t5", _t5(2048, 24, 32, 5120), VIT_G, BERT_BASE),
}
"""LLM family, LLM, ViT and Q-Former of each shape, LLaVA's MLP in place of None; "mid" and "small" fit a machine with
two cores."""


@dataclass(frozen=True)
class Work:
    """One step's images ``[I, 3, S, S]`` and the captions of each."""

    pixels: Tensor
    texts: list[list[Text]]

    @property
    def captions(self) -> int:
        return sum(len(image) for image in self.texts)


def build_model(shape: str, dtype: torch.dtype, device: torch.device, seed: int = 0) -> VLModel:
    """VPG, projector and frozen LLM of a shape with random weights; frozen parts in `dtype`.

    In stage 2 the Q-Former learns with its dropout (0.1), as in the paper's code. Tiny shapes have none, so that all
    variants compute the same numbers there; frozen parts never have.
    """
    torch.manual_seed(seed)
    kind, llm_sizes, vit, qformer = SHAPES[shape]
    config = AutoConfig.for_model(kind, **llm_sizes, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device(device):
        llm = auto.from_config(config, dtype=torch.float32 if device.type == "cpu" else dtype)
        vpg = _llava(vit, config.hidden_size) if qformer is None else _blip2(vit, qformer)
        projector = nn.Linear(vpg.output_size, config.hidden_size)
    family = next(f for f in default_registry().llm_families() if kind in f.model_types)
    adapter = load(family.adapter)(llm.to(dtype), word_tokenizer(["a"]), family)
    trained = {name for name, _ in vpg.trained()}
    for name, parameter in vpg.named_parameters():
        if name not in trained:
            parameter.data = parameter.data.to(dtype)
    return VLModel(vpg, projector, adapter)


def _blip2(vit: dict[str, Any], qformer: dict[str, Any]) -> VPG:
    return QFormerVPG.from_config(
        {
            "model_type": "blip-2",
            "num_query_tokens": 32 if qformer is BERT_BASE else 4,
            "vision_config": {"image_size": 224, "patch_size": 14, "initializer_range": 0.02, **vit},
            "qformer_config": {**qformer, "encoder_hidden_size": vit["hidden_size"]},
        }
    )


def _llava(vit: dict[str, Any], hidden: int) -> VPG:
    vision = {"model_type": "clip_vision_model", **vit}
    return LlavaVPG.from_config({"model_type": "llava", "vision_config": vision, "projector_hidden_size": hidden})


def make_work(model: VLModel, images: int, seed: int = 1, captions: int = CAPTIONS_AN_IMAGE) -> Work:
    """Random pixels and captions. Encoder-decoders get each caption cut at a random place, as the paper's code does."""
    rng = random.Random(seed)
    size = model.vpg.preprocessing.size
    pixels = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(seed))
    texts = [[_text(model, rng) for _ in range(captions)] for _ in range(images)]
    return Work(pixels.to(model.device), texts)


def _text(model: VLModel, rng: random.Random) -> Text:
    """A caption of random words: ``2`` begins it in a decoder-only LLM, ``1`` ends it."""
    words = tuple(rng.randrange(4, model.llm.model.config.vocab_size) for _ in range(rng.choice(TOKENS) - 2))
    if model.llm.family.encoder_decoder:
        cut = rng.randrange(len(words))
        return Text.of((*words[:cut], 1), (*words[cut:], 1))
    return Text.of((), (2, *words, 1))


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Padding, end, start and unknown, and then these words."""
    vocabulary = {word: n for n, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")

"""A tiny random world on disk: source VL-LLM, target LLMs and captioned images, for runs of a few seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "bar")
LINES = [f"a {c} {s} on the {side}" for c in COLOURS for s in SHAPES for side in ("left", "right")]

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "initializer_range": 0.1,
}  # fmt: skip
QFORMER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "encoder_hidden_size": 16, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.1,
}  # fmt: skip
LLMS = {
    "opt": {
        "model_type": "opt", "hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2,
        "pad_token_id": 1, "init_std": 0.2,
    },
    "opt-wide": {
        "model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 2,
        "pad_token_id": 1, "init_std": 0.2, "do_layer_norm_before": False,
    },
    "llama": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": 0.2,
    },
    "t5": {
        "model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the start and end habits of a family; each kind splits words in its own way."""
    specials = {"opt": ["<s>", "<pad>", "</s>"], "llama": ["<unk>", "<s>", "</s>"], "t5": ["<pad>", "</s>", "<unk>"]}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "llama")
    backend.decoder = decoders.ByteLevel()
    sizes = {"opt": 300, "llama": 285, "t5": 310}
    backend.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=sizes[kind],
            special_tokens=specials[kind],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    template = {"opt": "</s> $A", "llama": "<s> $A", "t5": "$A </s>"}[kind]
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, backend.token_to_id(t)) for t in specials[kind]]
    )
    names = {"eos_token": "</s>"} | ({"pad_token": "<pad>"} if kind != "llama" else {"unk_token": "<unk>"})
    if kind != "t5":
        names["bos_token"] = "</s>" if kind == "opt" else "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def save_llm(folder: Path, name: str, seed: int = 0) -> Path:
    """A random LLM with its tokenizer as save_pretrained writes them."""
    torch.manual_seed(seed)
    sizes = dict(LLMS[name])
    words = tokenizer(sizes["model_type"])
    config = AutoConfig.for_model(**sizes, vocab_size=len(words) + 3)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_source(folder: Path, llm: Path, seed: int = 1) -> Path:
    """A random BLIP-2 folder around an LLM's folder, as transformers writes it."""
    torch.manual_seed(seed)
    text = AutoConfig.from_pretrained(llm)
    config = Blip2Config(vision_config=VISION, qformer_config=QFORMER, text_config=text.to_dict(), num_query_tokens=4)
    config.image_token_index = text.vocab_size - 1
    model = Blip2ForConditionalGeneration(config)
    model.language_model.load_state_dict(AutoModelForCausalLM.from_pretrained(llm).state_dict())
    model.query_tokens.data.normal_(std=0.5)
    model.save_pretrained(folder)
    tokenizer("opt").save_pretrained(folder)
    return folder


def save_images(folder: Path, count: int = 24, captions: int = 3, seed: int = 0) -> Path:
    """`count` pictures with captions in COCO's form; returns the json."""
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        colour, shape, side = rng.choice(COLOURS), rng.choice(SHAPES), rng.choice(("left", "right"))
        picture = Image.new("RGB", (40, 32), "white")
        box = (4, 8, 18, 22) if side == "left" else (22, 8, 36, 22)
        draw = ImageDraw.Draw(picture)
        {"circle": draw.ellipse, "square": draw.rectangle, "bar": draw.rectangle}[shape](box, fill=colour)
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for _ in range(captions):
            text = f"A {colour} {shape} on the {side}."
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path

"""Tiny random language models and a tiny tokenizer, made offline from a model type alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpgtrans_core.testing.checks import CheckFailed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

SIZES: dict[int, tuple[str, ...]] = {
    32: ("hidden_size", "d_model", "n_embd", "word_embed_proj_dim"),
    64: ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"),
    2: (
        *("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers", "encoder_layers"),
        *("decoder_layers", "num_key_value_heads", "num_kv_heads", "num_experts_per_tok"),
    ),
    4: (
        *("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads"),
        *("decoder_attention_heads", "rotary_dim", "num_local_experts", "num_experts"),
    ),
    8: ("head_dim", "d_kv"),
    16: ("moe_intermediate_size",),
    512: ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
"""Small values for the names under which transformers' configs keep their sizes."""
WORDS = "a red circle on the left of blue square question: what colour is it? answer: green star above two bars no yes"
SPARE_ROWS = 3


def tiny_tokenizer(encoder_decoder: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE: ``<s>`` before a text, or for encoder-decoders ``</s>`` after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([WORDS], trainer)
    template = "$A </s>" if encoder_decoder else "<s> $A"
    known = [(token, backend.token_to_id(token)) for token in specials]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
    start = {} if encoder_decoder else {"bos_token": "<s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **start
    )


def tiny_config(model_type: str, tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any]) -> PreTrainedConfig:
    """The config of a model type with every size that it names made small; `changes` win.

    Raises:
        CheckFailed: transformers does not know the model type, or refuses the config.
    """
    from transformers import AutoConfig

    try:
        known = AutoConfig.for_model(model_type).to_dict()
    except (ValueError, KeyError) as error:
        raise CheckFailed(
            f"transformers does not support the model type {model_type!r}", "the family's model_types"
        ) from error
    sizes: dict[str, Any] = {name: size for size, names in SIZES.items() for name in names if name in known}
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    tokens |= {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": tokenizer.pad_token_id}
    sizes |= {name: value for name, value in tokens.items() if name in known or name == "decoder_start_token_id"}
    sizes |= {"vocab_size": len(tokenizer) + SPARE_ROWS}
    try:
        return AutoConfig.for_model(model_type, **(sizes | changes))
    except Exception as error:  # transformers checks its configs with many kinds of error
        said = f"cannot build a tiny {model_type}, because its config lacks something: {' '.join(str(error).split())}"
        raise CheckFailed(said, "VPGT_CONFORMANCE['FAMILY']['config']: fields that the tiny config needs") from error


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model whose random weights are large enough that position, mask and scale matter."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.manual_seed(seed)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.12 if "emb" in name or "shared" in name or "wte" in name else 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    return model


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the head's weight is the word embeddings' own."""
    head: Any = model.get_output_embeddings()
    return head is not None and head.weight is getattr(model.get_input_embeddings(), "weight", None)


def untie_head(model: PreTrainedModel) -> None:
    """Give the head a random weight of its own. transformers ties T5's on making whatever is asked for, and unties it
    on loading when the file has both."""
    head: Any = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(0.2 * torch.randn_like(head.weight))


def save_tiny_llm(
    folder: Path,
    model_type: str,
    *,
    encoder_decoder: bool = False,
    changes: dict[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny random LLM with its tokenizer as ``save_pretrained`` does, and return its folder."""
    words = tokenizer or tiny_tokenizer(encoder_decoder)
    changes = changes or {}
    model = random_model(tiny_config(model_type, words, changes), seed)
    if changes.get("tie_word_embeddings") is False and has_tied_head(model):
        untie_head(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_pictures(folder: Path, count: int = 6) -> Path:
    """Write captioned pictures in COCO's form, and return the json."""
    import json

    from PIL import Image, ImageDraw

    (folder / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        colour, side = ("red", "blue", "green")[number % 3], ("left", "right")[number % 2]
        picture = Image.new("RGB", (40, 32), "white")
        ImageDraw.Draw(picture).rectangle((4, 8, 18, 22) if side == "left" else (22, 8, 36, 22), fill=colour)
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for text in (f"a {colour} square", f"a {colour} square on the {side}"):
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    return path

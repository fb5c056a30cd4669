"""What vLLM's `blip2` asks of a folder, as read in its sources (not run: see docs/checkpoints.md).

It builds the language model by `text_config.architectures`, loads every tensor by its name into the modules of that
name and stops at one that it does not know, looks ``<image>`` up in the tokenizer, and takes the pictures' places in
the prompt from what transformers' processor returns.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from PIL import Image
from tiny import VOCABULARY, VPG_CONFIG, load_llm, save_llm, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.cards import load
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.weights import Weights, save_tensors

FAMILIES = {
    "opt": ("opt", {}),
    "opt, full vocabulary": ("opt", {"words": VOCABULARY}),
    "opt with a narrow table": ("opt", {"word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "llama": ("llama", {}),
    "llama, full vocabulary": ("llama", {"words": VOCABULARY}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
}
NORM = ("weight", "bias")
IMAGE = Image.new("RGB", (30, 40), (200, 30, 30))


def modules_of_vllm(config: dict) -> set[str]:
    """The parameters of vLLM's ViT, Q-Former and projector by name, by its classes."""
    names = {"query_tokens", "vision_model.embeddings.class_embedding", "vision_model.embeddings.position_embedding"}
    linear = ["vision_model.embeddings.patch_embedding", "vision_model.post_layernorm"]
    linear += ["qformer.layernorm", "language_projection"]
    for n in range(config["vision_config"]["num_hidden_layers"]):
        parts = ("self_attn.qkv", "self_attn.projection", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
        linear += [f"vision_model.encoder.layers.{n}.{part}" for part in parts]
    for n in range(config["qformer_config"]["num_hidden_layers"]):
        crosses = n % config["qformer_config"]["cross_attention_frequency"] == 0
        for attention in ["attention", *["crossattention"] * crosses]:
            parts = ("attention.query", "attention.key", "attention.value", "output.dense", "output.LayerNorm")
            linear += [f"qformer.encoder.layer.{n}.{attention}.{part}" for part in parts]
        parts = ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
        linear += [f"qformer.encoder.layer.{n}.{part}" for part in parts]
    return names | {f"{name}.{kind}" for name in linear for kind in NORM}


def complaints(folder) -> list[str]:
    """Which of the facts that vLLM relies on do not hold."""
    config = json.loads((folder / "config.json").read_text())
    weights, text = Weights(folder), config["text_config"]
    processor = AutoProcessor.from_pretrained(folder)
    names = {name for name in weights if not name.startswith("language_model.")}
    tables = [n for n in weights if re.fullmatch(r"language_model\.(lm_head|model\..*embed_tokens)\.weight", n)]
    rows = [weights.shape(name)[0] for name in tables]
    prompt = processor(images=IMAGE, text="w7 w8", return_tensors="pt").input_ids[0].tolist()
    nothing = processor(images=IMAGE, text="", return_tensors="pt").input_ids[0].tolist()
    plain = processor.tokenizer("w7 w8").input_ids
    token, count = processor.tokenizer.get_vocab().get("<image>"), config["num_query_tokens"]
    facts = {
        "its own class": config["architectures"] == ["Blip2ForConditionalGeneration"],
        "a config of transformers": type(AutoConfig.from_pretrained(folder)).__name__ == "Blip2Config",
        "a class for the language model": len(text.get("architectures") or ()) == 1
        and text["architectures"][0].endswith("ForCausalLM"),
        "no other names than its modules'": names == modules_of_vllm(config),
        "a trunk called model": all(n.startswith(("language_model.model.", "language_model.lm_head.")) for n in tables)
        and any(n.startswith("language_model.model.") for n in weights),
        "a head where none is tied": len(tables) == (1 if text.get("tie_word_embeddings") else 2),
        "tables of as many rows as words": set(rows) == {text["vocab_size"]},
        "a projector as wide as the language model": weights.shape("language_projection.weight")
        == (text.get("hidden_size"), config["qformer_config"]["hidden_size"]),
        "absolute positions": config["qformer_config"].get("position_embedding_type", "absolute") == "absolute",
        "<image> in the tokenizer and a row of the table": token is not None and token < min(rows, default=0),
        "the config's image token": config["image_token_index"] == token,
        "places for the picture in front": prompt == [token] * count + plain and nothing[:count] == [token] * count,
        "pixels of the ViT's size": processor(images=IMAGE, text="", return_tensors="pt").pixel_values.shape[-2:]
        == (config["vision_config"]["image_size"],) * 2,
    }
    return [name for name, holds in facts.items() if not holds]


def write(folder, kind: str, **changes):
    llm = load_llm(save_llm(folder / "llm", kind, **changes), kind, bos="after")
    vpg = QFormerVPG.from_config(VPG_CONFIG)
    vpg.save_model(folder / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    return folder / "out"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_decoders_folder_is_what_vllm_asks_for(name: str, tmp_path) -> None:
    kind, changes = FAMILIES[name]
    assert complaints(write(tmp_path, kind, **changes)) == []


def test_a_start_before_the_picture_is_not(tmp_path) -> None:
    """vLLM puts the picture in front of all tokens."""
    llm = load_llm(save_llm(tmp_path / "llm", "llama"), "llama", bos="first")
    QFormerVPG.from_config(VPG_CONFIG).save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    assert complaints(tmp_path / "out") == ["places for the picture in front"]


def test_an_encoder_decoders_is_not(tmp_path) -> None:
    assert "a class for the language model" in complaints(write(tmp_path, "t5", tied=False))


ANY = {"hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 61}


@pytest.mark.parametrize(("kind", "fits"), [("qwen2", True), ("mistral", True), ("gpt_neox", False)])
def test_llms_that_no_plugin_knows(kind: str, fits: bool, tmp_path) -> None:
    """GPT-NeoX's trunk has another name, and vLLM's `blip2` calls it `model`."""
    more = {} if kind == "gpt_neox" else {"num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, **ANY, **more, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llm")
    tokenizer("llama").save_pretrained(tmp_path / "llm")
    family = dataclasses.replace(fallback_family(kind), bos="after")
    llm = load(family.adapter).load(tmp_path / "llm", family=family)
    QFormerVPG.from_config(VPG_CONFIG).save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    assert ("a trunk called model" not in complaints(tmp_path / "out")) == fits
    assert not fits or complaints(tmp_path / "out") == []


def test_the_llms_class_is_named_where_its_own_folder_names_none(tmp_path) -> None:
    llm = load_llm(save_llm(tmp_path / "llm", "llama"), "llama", bos="after")
    llm.model.config.architectures = None
    QFormerVPG.from_config(VPG_CONFIG).save_model(tmp_path / "out", torch.nn.Linear(32, 40), llm, llm_reference={})
    assert complaints(tmp_path / "out") == []


def edit(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda c: c["text_config"].pop("architectures"), "a class for the language model"),
        (lambda c: c.update(image_token_index=3), "the config's image token"),
        (lambda c: c["text_config"].update(vocab_size=70), "tables of as many rows as words"),
        (lambda c: c["qformer_config"].update(num_hidden_layers=5), "no other names than its modules'"),
        (lambda c: c["text_config"].update(tie_word_embeddings=False), "a head where none is tied"),
    ],
)
def test_each_fact_can_fail(change, fact: str, tmp_path) -> None:
    folder = write(tmp_path, "opt")
    edit(folder, change)
    assert complaints(folder) == [fact]


def test_a_name_too_many_is_seen(tmp_path) -> None:
    """The Q-Former's text branch, which vLLM has no modules for."""
    folder = write(tmp_path, "opt")
    weights = Weights(folder)
    extra = {"qformer.encoder.layer.0.intermediate.dense.bias": torch.zeros(1)}
    save_tensors(folder / "model.safetensors", {name: weights.read(name).clone() for name in weights} | extra)
    assert complaints(folder) == ["no other names than its modules'"]

"""Folders of language models that do not fit together: refused before memory is taken or a step is trained."""

import json
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.testing.tiny_models import save_tiny_llm, tiny_tokenizer


@pytest.fixture
def llm(tmp_path):
    save_tiny_llm(tmp_path / "llm", "gpt_neox", tokenizer=tiny_tokenizer(False))
    return tmp_path / "llm"


def load(folder):
    return AnyCausalLM.load(folder, family=fallback_family("gpt_neox"))


def add_token_beyond_the_table(folder, rows):
    """Add tokens until the last one, ``<beyond>``, has the id `rows`; it is also the padding, as LLaMA's often is."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(rows - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "<beyond>"})
    assert tokenizer.pad_token_id == rows
    tokenizer.save_pretrained(folder)


def loss(llm, caption):
    text = llm.text.encode(Caption(caption), 32, random.Random(0))
    soft_prompts = torch.ones(1, 2, llm.embedding_size)
    return float(llm.loss(soft_prompts, llm.layout([[text]], 2)))


def test_tokens_beyond_the_table_are_refused_where_a_text_has_them_and_resizing_helps(llm):
    rows = load(llm).vocab_size
    before = loss(load(llm), "a red circle")
    add_token_beyond_the_table(llm, rows)
    loaded = load(llm)
    assert loss(loaded, "a red circle") == before
    # rows that end early are padded, with a token that the table has
    options = GenerateOptions(num_beams=2, max_new_tokens=4)
    assert len(loaded.generate(torch.ones(2, 2, loaded.embedding_size), "a", options)) == 2
    assert loaded.generation_settings()["pad_token_id"] < rows
    message = f"contains the token '<beyond>' .id {rows}., but the model's embedding table has only {rows} rows"
    with pytest.raises(ModelError, match=message) as caught:
        loss(loaded, "a red <beyond>")
    assert f"model.resize_token_embeddings({rows + 1})" in caught.value.hint
    with pytest.raises(ModelError, match=message):
        loaded.generate(torch.ones(1, 2, loaded.embedding_size), "a <beyond>", options)
    model = AutoModelForCausalLM.from_pretrained(llm)
    model.resize_token_embeddings(rows + 1)
    model.save_pretrained(llm)
    assert load(llm).vocab_size == rows + 1
    assert loss(load(llm), "a red <beyond>") > 0


def test_an_encoder_decoders_tokens_beyond_the_table_are_refused_where_a_text_has_them(tmp_path):
    save_tiny_llm(tmp_path, "t5", encoder_decoder=True)
    family = LLMFamily("t5", ("t5",), "vpgtrans_core.llm.encoder_decoder:EncoderDecoderLLM")
    rows = EncoderDecoderLLM.load(tmp_path, family=family).vocab_size
    add_token_beyond_the_table(tmp_path, rows)
    loaded = EncoderDecoderLLM.load(tmp_path, family=family)
    assert loss(loaded, "a red circle") > 0 and loaded.generation_settings()["pad_token_id"] < rows
    with pytest.raises(ModelError, match="contains the token '<beyond>'"):
        loss(loaded, "a red <beyond>")


@pytest.mark.parametrize("changes", [{"hidden_size": 200_000}, {"vocab_size": 16_000_000}, {"num_hidden_layers": 1000}])
def test_config_of_a_far_larger_model_is_refused_before_memory_is_taken(llm, changes):
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match="describes a model of"):
        load(llm)

"""The LLM plugins' descriptions and cards, against transformers' own classes where they can be."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
from conftest import family, opt_config, random_model
from llm_llama.cards import CARDS as LLAMAS
from llm_opt.adapter import OPT
from llm_opt.cards import CARDS as OPTS
from llm_opt.embeddings import OPTEmbeddings
from llm_t5.cards import CARDS as T5S
from tiny_tokenizers import byte_level
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, OPTConfig, T5Config

from vpgtrans_core.cards import LLMCard, load
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.embeddings import open_embeddings

PLUGINS = ("llm_opt", "llm_t5", "llm_llama")
ALL = (*OPTS, *LLAMAS, *T5S)


def config_of(card: LLMCard):
    common = dict(vocab_size=card.vocab_size)
    if card in T5S:
        common |= dict(
            d_model=card.hidden_size, num_layers=card.layers, num_heads=card.heads, d_ff=card.intermediate_size
        )
        return T5Config(**common, **card.config)
    common |= dict(hidden_size=card.hidden_size, num_hidden_layers=card.layers, num_attention_heads=card.heads)
    if card in OPTS:
        sizes = {"word_embed_proj_dim": card.hidden_size} | card.config
        return OPTConfig(**common, ffn_dim=card.intermediate_size, **sizes)
    more = {"num_key_value_heads": card.kv_heads} if card.kv_heads else {}
    return LlamaConfig(**common, intermediate_size=card.intermediate_size, **more, **card.config)


@pytest.mark.parametrize("card", [c for c in ALL if c.bundled is None], ids=lambda c: c.alias)
def test_a_cards_sizes_make_a_model_of_its_parameters(card):
    config = config_of(card)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    model.tie_weights()
    own_head = config.is_encoder_decoder and not config.scale_decoder_outputs  # transformers ties T5's by force
    extra = model.get_output_embeddings().weight.numel() if own_head else 0
    assert sum(p.numel() for p in model.parameters()) + extra == card.parameters
    assert tuple(model.get_input_embeddings().weight.shape) == (
        card.vocab_size,
        card.config.get("word_embed_proj_dim", card.hidden_size),
    )


def test_aliases_are_unique():
    assert len({c.alias for c in ALL}) == len(ALL)
    assert all(c.licence and c.hub_id for c in ALL)


@pytest.mark.parametrize("name", PLUGINS)
def test_families_name_adapters_that_exist(name):
    plugin = importlib.import_module(name)
    for described in plugin.vpgt_llm_families():
        assert issubclass(load(described.adapter), LLM)
        assert described.cards
    for access in getattr(plugin, "vpgt_embedding_access", list)():
        load(access.reader)


@pytest.mark.parametrize("name", PLUGINS)
def test_descriptions_need_no_torch(name):
    code = f"import sys, {name}; {name}.vpgt_llm_families(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("changes", [{}, {"word_embed_proj_dim": 16}])
def test_opt_embeddings_are_read_as_the_first_block_sees_them(changes, tmp_path):
    random_model(opt_config(**changes)).save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    llm = OPT.load(tmp_path, family=family("opt"))
    table = open_embeddings(tmp_path, OPTEmbeddings).table()
    assert torch.allclose(table, llm.embed(torch.arange(llm.vocab_size)), atol=1e-6)

"""The LLM plugins' descriptions and cards, against transformers' own classes where they can be."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import resources

import pytest
import torch
from conftest import family, opt_config, random_model
from llm_llama.cards import CARDS as LLAMAS
from llm_opt.adapter import OPT
from llm_opt.cards import CARDS as OPTS
from llm_opt.embeddings import OPTEmbeddings
from llm_t5.cards import CARDS as T5S
from tiny_tokenizers import byte_level
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from vpgtrans_core.cards import FACTS, load
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.llm.embeddings import open_embeddings
from vpgtrans_core.resolve import card_config

PLUGINS = ("llm_opt", "llm_t5", "llm_llama")
ALL = (*OPTS, *LLAMAS, *T5S)


FAMILY_OF = {
    card.alias: described
    for name in PLUGINS
    for described in importlib.import_module(name).vpgt_llm_families()
    for card in described.cards
}


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.alias)
def test_a_cards_sizes_make_a_model_of_its_parameters(card):
    values = card_config(card, FAMILY_OF[card.alias])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    model.tie_weights()
    # FlanT5 has a head of its own; transformers ties every T5 that it builds itself, the miniature's among them
    own_head = config.is_encoder_decoder and not card.bundled
    extra = model.get_output_embeddings().weight.numel() if own_head else 0
    assert sum(p.numel() for p in model.parameters()) + extra == card.parameters
    assert tuple(model.get_input_embeddings().weight.shape) == (
        card.vocab_size,
        card.config.get("word_embed_proj_dim", card.hidden_size),
    )


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.alias)
def test_the_facts_called_checked_are_those_that_transformers_states(card):
    """A config class's defaults are those of one published model; what the family shares holds for all of it."""
    stated = AutoConfig.for_model(FAMILY_OF[card.alias].model_types[0])
    found = {"hidden_size": stated.hidden_size, "vocab_size": stated.vocab_size, "end_token": stated.eos_token_id}
    assert set(card.checked) == {fact for fact in FACTS if getattr(card, fact) == found[fact]}


@pytest.mark.parametrize("card", [c for c in ALL if c.bundled], ids=lambda c: c.alias)
def test_a_bundled_model_is_what_its_card_says(card):
    package, _, folder = card.bundled.partition(":")
    path = resources.files(package) / folder
    if not (path / "config.json").is_file():
        pytest.skip("not built")
    described = FAMILY_OF[card.alias]
    llm = load(described.adapter).load(path, family=described)
    assert (llm.vocab_size, llm.embedding_size) == (card.vocab_size, card.hidden_size)
    assert sum(p.numel() for p in llm.model.parameters()) == card.parameters
    assert llm.shares_prefix and llm.tokenizer.eos_token_id == card.end_token
    ends = llm.generation_settings()["eos_token_id"]
    line_break = llm.tokenizer("a\n", add_special_tokens=False).input_ids[-1]
    assert ends == llm.tokenizer.eos_token_id if described.encoder_decoder else ends[0] == line_break


def test_aliases_are_unique():
    assert len({c.alias for c in ALL}) == len(ALL)
    assert all(c.licence and bool(c.hub_id) != bool(c.bundled) for c in ALL)


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

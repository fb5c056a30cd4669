"""The LLM plugins' descriptions and cards, against transformers' own classes where they can be."""

from __future__ import annotations

import importlib
from importlib import resources

import pytest
from llm_gemma import CARDS as GEMMAS
from llm_llama.cards import CARDS as LLAMAS
from llm_opt.cards import CARDS as OPTS
from llm_t5.cards import CARDS as T5S
from transformers import AutoConfig

from vpgtrans_core.cards import FACTS, load

PLUGINS = ("llm_opt", "llm_t5", "llm_llama", "llm_gemma")
ALL = (*OPTS, *LLAMAS, *T5S, *GEMMAS)


FAMILY_OF = {
    card.alias: described
    for name in PLUGINS
    for described in importlib.import_module(name).vpgt_llm_families()
    for card in described.cards
}


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

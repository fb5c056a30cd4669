"""Folders of language models that do not fit together: refused before memory is taken or a step is trained."""

import json

import pytest
from transformers import AutoTokenizer

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.any_causal import AnyCausalLM
from vpgtrans_core.llm.fallback import fallback_family
from vpgtrans_core.testing.tiny_models import save_tiny_llm, tiny_tokenizer


@pytest.fixture
def llm(tmp_path):
    save_tiny_llm(tmp_path / "llm", "gpt_neox", tokenizer=tiny_tokenizer(False))
    return tmp_path / "llm"


def load(folder):
    return AnyCausalLM.load(folder, family=fallback_family("gpt_neox"))


def test_tokens_beyond_the_table_are_refused_and_resizing_helps(llm):
    rows = load(llm).vocab_size
    tokenizer = AutoTokenizer.from_pretrained(llm)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(rows - len(tokenizer) + 1)])
    tokenizer.save_pretrained(llm)
    with pytest.raises(ModelError, match=f"the tokenizer has {rows + 1} tokens, the model embeds {rows}") as caught:
        load(llm)
    assert f"model.resize_token_embeddings({rows + 1})" in caught.value.hint
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llm)
    model.resize_token_embeddings(rows + 1)
    model.save_pretrained(llm)
    assert load(llm).vocab_size == rows + 1


@pytest.mark.parametrize("changes", [{"hidden_size": 200_000}, {"vocab_size": 16_000_000}, {"num_hidden_layers": 1000}])
def test_config_of_a_far_larger_model_is_refused_before_memory_is_taken(llm, changes):
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match="describes a model of"):
        load(llm)

"""Loading from folders: what comes from outside fits or is refused."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import family, llama_config, random_model
from safetensors.torch import load_file, save_file
from tiny_tokenizers import metaspace

from vpgtrans_core.data.sample import Caption
from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.decoder import DecoderOnlyLLM


@pytest.fixture
def folder(tmp_path):
    random_model(llama_config()).save_pretrained(tmp_path)
    metaspace().save_pretrained(tmp_path)
    return tmp_path


def load(folder, **options):
    return DecoderOnlyLLM.load(folder, family=family("llama"), **options)


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_loads_as_it_was_saved(folder):
    llm, model = load(folder), random_model(llama_config())
    for name, value in model.state_dict().items():
        assert torch.equal(llm.model.state_dict()[name], value), name
    assert llm.bool_masks and llm.shares_prefix
    assert load(folder, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert not load(folder, share=False).shares_prefix


def test_a_built_model_is_taken_as_it_is(folder):
    model = random_model(llama_config())
    assert load(folder, model=model).model is model


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), "missing.*up_proj"),
        (lambda t: t.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2)}), "unexpected.*layers.9"),
        (lambda t: t["model.norm.weight"].fill_(float("nan")), "(?s)NaN.*model.norm.weight"),
        (lambda t: t.update({"model.norm.weight": torch.ones(5)}), r"misshapen.*model.norm.weight \(5,\), not \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, edit, message):
    change(folder, edit)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_known_buffers_of_old_checkpoints_are_no_fault(folder):
    change(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert load(folder).embedding_size == 32


def test_a_folder_without_model(tmp_path):
    with pytest.raises(ModelError) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message and caught.value.hint


def test_a_folder_without_tokenizer(tmp_path):
    random_model(llama_config()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        load(tmp_path)


def test_a_tokenizer_of_another_model(folder):
    small = load(folder, model=random_model(llama_config(vocab_size=100)))
    text = small.text.encode(Caption("a red circle"), 32, random.Random(0))
    with pytest.raises(ModelError, match="embedding table has only 100 rows") as caught:
        small.layout([[text]], 2)
    assert "own tokenizer" in caught.value.hint


def test_remote_code_does_not_run(folder):
    import json

    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "stranger",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load(folder)
    assert not (folder / "ran").exists()

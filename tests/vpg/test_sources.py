"""BLIP-2 folders as people have them: what each gives is what transformers itself reads out of it."""

from __future__ import annotations

import pytest
import torch
from tiny import VISION, blip2, tokenizer
from transformers import Blip2ForConditionalGeneration
from vpg_qformer.adapter import QFormerVPG

from vpgtrans_core.llm.embeddings import open_embeddings
from vpgtrans_core.registry import default_registry
from vpgtrans_core.run.export import export_model
from vpgtrans_core.settings import Settings
from vpgtrans_core.weights import Weights

LLMS = {
    "opt": ("opt", {}),
    "opt, head of its own": ("opt", {"tie_word_embeddings": False}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama, head tied": ("llama", {"tie_word_embeddings": True}),
    "t5": ("t5", {"tie_word_embeddings": False}),
    "t5, head tied": ("t5", {"tie_word_embeddings": True}),
}


@pytest.fixture(params=LLMS)
def model(request, monkeypatch):
    """Each with pictures of another size than the others have: 26 patches a side, as 364 px are."""
    kind, changes = LLMS[request.param]
    if "tied" not in request.param:
        monkeypatch.setitem(VISION, "image_size", 364)
    made = blip2(kind, **changes)
    if request.param == "t5":  # transformers ties what it builds, and unties what it loads
        made.language_model.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.language_model.lm_head.weight))
    return kind, made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("shard", ["1GB", "40KB"], ids=["one file", "sharded"])
@torch.no_grad()
def test_a_folder_gives_what_transformers_reads(model, dtype, shard, tmp_path):
    kind, made = model
    made.to(dtype).save_pretrained(tmp_path / "source", max_shard_size=shard)
    tokenizer(kind).save_pretrained(tmp_path / "source")
    assert (tmp_path / "source" / "model.safetensors.index.json").exists() == (shard == "40KB")
    theirs = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "source", dtype=torch.float32)

    vpg = QFormerVPG.load(tmp_path / "source")
    pixels = torch.randn(2, 3, vpg.preprocessing.size, vpg.preprocessing.size)
    weight, bias = QFormerVPG.load_projector(tmp_path / "source")
    soft = theirs.get_image_features(pixels, return_dict=True).pooler_output
    torch.testing.assert_close(vpg(pixels) @ weight.T + bias, soft, rtol=1e-4, atol=1e-4)
    words = theirs.language_model.get_input_embeddings().weight
    assert torch.equal(open_embeddings(tmp_path / "source").table()[: len(words)], words)

    arguments = {"registry": default_registry(), "settings": Settings(), "overwrite": False}
    export_model(str(tmp_path / "source"), str(tmp_path / "out"), "hf", **arguments)
    again = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert Weights(tmp_path / "out").read("vision_model.embeddings.class_embedding").dtype == dtype
    state, expected = again.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name

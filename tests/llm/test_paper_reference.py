"""The paper's own code on a tiny OPT: its loss and projector gradients, reproduced from its soft prompts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import family
from llm_opt.adapter import OPT

from vpgtrans_core.llm.text import Text

SHARED = Path(os.environ.get("VPGT_SHARED", Path(__file__).resolve().parents[3] / "shared"))
FOLDER = SHARED / "fixtures" / "lavis" / "opt"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference tensors are not at hand")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("stage", [1, 2])
def test_loss_and_projector_gradient_equal_the_papers_code(stage, share):
    reference = torch.load(FOLDER / f"reference_stage{stage}.pt", weights_only=True)
    llm = OPT.load(FOLDER / "llm", family=family("opt"), share=share)
    lengths = reference["attention_mask"].sum(1)
    texts = [[Text.of((), tuple(ids[:n].tolist()))] for ids, n in zip(reference["input_ids"], lengths, strict=True)]
    soft_prompts = reference["soft_prompts"].clone().requires_grad_()
    rows = llm.layout(texts, soft_prompts.shape[1])
    loss = llm.loss(soft_prompts, rows) / rows.labels
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(reference["loss"]), rel=1e-6)
    weight = torch.einsum("bqd,bqe->de", soft_prompts.grad, reference["qformer_out"])
    bias = soft_prompts.grad.sum((0, 1))
    for found, name in ((weight, "opt_proj.weight"), (bias, "opt_proj.bias")):
        expected = reference["grads"][name]
        assert float((found - expected).norm() / expected.norm()) < 1e-5

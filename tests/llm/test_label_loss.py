"""The chunked head and loss against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vpgtrans_core.llm.loss import label_loss

WEIGHT = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def linear(hidden):
    return hidden @ WEIGHT.to(hidden.dtype).T


def softcapped(hidden):
    return 30 * torch.tanh(linear(hidden) * 0.7 / 30)


@pytest.mark.parametrize("head", [linear, softcapped])
@pytest.mark.parametrize("chunk", [1, 50 * 3, 10**6])
def test_chunks_equal_the_whole(head, chunk):
    hidden = torch.randn(11, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (11,))
    (label_loss(hidden, targets, head, 50, chunk) * 3).backward()
    got, hidden.grad = hidden.grad, None
    expected = functional.cross_entropy(head(hidden), targets, reduction="sum")
    (expected * 3).backward()
    assert torch.allclose(got, hidden.grad)
    assert torch.allclose(label_loss(hidden, targets, head, 50, chunk), expected)


def test_logits_of_a_batch_never_exist_at_once():
    sizes = []

    def head(hidden):
        sizes.append(len(hidden))
        return linear(hidden)

    label_loss(torch.randn(100, 16, requires_grad=True), torch.zeros(100, dtype=torch.long), head, 50, 50 * 7)
    assert max(sizes) == 7 and sum(sizes) == 100


def test_without_gradient_none_is_computed():
    hidden = torch.randn(4, 16, requires_grad=True)
    with torch.no_grad():
        loss = label_loss(hidden, torch.zeros(4, dtype=torch.long), linear, 50)
    assert not loss.requires_grad


def test_half_precision_sums_in_fp32_and_takes_large_scales():
    hidden = torch.randn(4, 16, dtype=torch.float16, requires_grad=True)
    loss = label_loss(hidden, torch.zeros(4, dtype=torch.long), linear, 50)
    assert loss.dtype == torch.float32
    (loss * 2.0**17 / 2.0**17).backward()
    assert torch.isfinite(hidden.grad).all()


def test_no_labels_make_no_loss():
    loss = label_loss(torch.zeros(0, 16, requires_grad=True), torch.zeros(0, dtype=torch.long), linear, 50)
    assert float(loss.detach()) == 0

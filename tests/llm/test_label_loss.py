"""The chunked head and loss against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vpgtrans_core.llm.loss import NO_LABEL, label_loss

WEIGHT = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def linear(hidden):
    return hidden @ WEIGHT.to(hidden.dtype).T


def softcapped(hidden):
    return 30 * torch.tanh(linear(hidden) * 0.7 / 30)


@pytest.mark.parametrize("head", [linear, softcapped])
@pytest.mark.parametrize("chunk", [1, 50 * 3, 10**6])
def test_chunks_equal_the_whole(head, chunk):
    hidden = torch.randn(11, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (11, 3))
    targets[4, 1:], targets[7, 1] = NO_LABEL, targets[7, 0]  # one label alone, one label twice
    (label_loss(hidden, targets, head, 50, chunk) * 3).backward()
    got, hidden.grad = hidden.grad, None
    flat = head(hidden).repeat_interleave(3, 0)
    expected = functional.cross_entropy(flat, targets.flatten(), reduction="sum", ignore_index=NO_LABEL)
    (expected * 3).backward()
    assert torch.allclose(got, hidden.grad)
    assert torch.allclose(label_loss(hidden, targets, head, 50, chunk), expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_fp32_is_as_exact_as_torchs_own(scale):
    """Of logits that are all alike, and of logits so far apart that most probabilities vanish."""
    hidden = (torch.randn(9, 16, generator=torch.Generator().manual_seed(1)) * scale).requires_grad_()
    targets = torch.arange(9)[:, None]
    found = label_loss(hidden, targets, linear, 50)
    expected = functional.cross_entropy(linear(hidden.detach().double()), targets[:, 0], reduction="sum")
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_logits_of_a_batch_never_exist_at_once():
    sizes = []

    def head(hidden):
        sizes.append(len(hidden))
        return linear(hidden)

    label_loss(torch.randn(100, 16, requires_grad=True), torch.zeros(100, 1, dtype=torch.long), head, 50, 50 * 7)
    assert max(sizes) <= 7 and sum(sizes) == 100


def test_without_gradient_none_is_computed():
    hidden = torch.randn(4, 16, requires_grad=True)
    with torch.no_grad():
        loss = label_loss(hidden, torch.zeros(4, 1, dtype=torch.long), linear, 50)
    assert not loss.requires_grad


def test_half_precision_sums_in_fp32_and_takes_large_scales():
    hidden = torch.randn(4, 16, dtype=torch.float16, requires_grad=True)
    loss = label_loss(hidden, torch.zeros(4, 1, dtype=torch.long), linear, 50)
    assert loss.dtype == torch.float32
    (loss * 2.0**17 / 2.0**17).backward()
    assert torch.isfinite(hidden.grad).all()


def test_no_labels_make_no_loss():
    loss = label_loss(torch.zeros(0, 16, requires_grad=True), torch.zeros(0, 1, dtype=torch.long), linear, 50)
    assert float(loss.detach()) == 0

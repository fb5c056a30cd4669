"""Rows whose sizes are rounded up: the same losses and gradients, and few different sizes."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import PROMPTS, TEXTS, family, llama_config, loss_and_gradient, opt_config, random_model, soft_prompts_for
from llm_opt.adapter import OPT
from test_t5 import TEXTS as T5_TEXTS
from test_t5 import t5 as tiny_t5
from tiny_tokenizers import byte_level, metaspace, unigram
from transformers import AutoModelForSeq2SeqLM, BartConfig

from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM
from vpgtrans_core.llm.rows import DecoderRows, decoder_rows
from vpgtrans_core.llm.segments import EncoderDecoderRows, encoder_decoder_rows
from vpgtrans_core.llm.sizes import EXACT, MULTIPLE, ROUNDED
from vpgtrans_core.llm.text import Text
from vpgtrans_core.planning.cost.rows import TextSize, invented_texts


def opt(share: bool):
    model = random_model(opt_config(max_position_embeddings=64), torch.float64)
    return OPT(model, byte_level(), family("opt"), share), TEXTS


def llama(share: bool):
    return DecoderOnlyLLM(random_model(llama_config(), torch.float64), metaspace(), family("llama"), share), TEXTS


def t5(share: bool):
    return tiny_t5(torch.float64, share)[0], T5_TEXTS


def bart(share: bool):
    """Positions of its own: rows are padded."""
    sizes = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4)
    sizes |= dict(encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=328, max_position_embeddings=64)
    config = BartConfig(**sizes, decoder_start_token_id=2)
    model = random_model(config, torch.float64, AutoModelForSeq2SeqLM)
    return EncoderDecoderLLM(model, unigram(), family("bart"), share), T5_TEXTS


def shape(rows: DecoderRows | EncoderDecoderRows) -> tuple[int, ...]:
    """All sizes that an LLM's kernels see."""
    own = (*rows.ids.shape, *rows.predictors.shape)
    return (*own, *rows.decoder_ids.shape) if isinstance(rows, EncoderDecoderRows) else own


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("make", [opt, llama, t5, bart], ids=lambda made: made.__name__)
def test_losses_and_gradients_stay(make, share: bool) -> None:
    """For several numbers of samples, so that rows, and what is predicted from, have been filled up."""
    llm, texts = make(share)
    filled = set()
    for times in (1, 7, 19):
        many = texts * times
        prompts = soft_prompts_for(llm.model, len(many))
        llm.sizes = EXACT
        exact = llm.layout(many, PROMPTS)
        loss, gradient = loss_and_gradient(lambda p, rows=exact: llm.loss(p, rows), prompts)
        llm.round_rows()
        rows = llm.layout(many, PROMPTS)
        assert shape(rows) != shape(exact) and rows.labels == exact.labels and not rows.ids.shape[1] % MULTIPLE
        filled |= {n for n in range(len(shape(rows))) if shape(rows)[n] > shape(exact)[n]}
        again, other = loss_and_gradient(lambda p, rows=rows: llm.loss(p, rows), prompts)
        assert float(again) == pytest.approx(float(loss), rel=1e-6)
        assert float((other - gradient).norm() / gradient.norm()) < 1e-6
    assert {1, 2} <= filled


@pytest.mark.parametrize("make", [llama, t5], ids=lambda made: made.__name__)
def test_nothing_to_learn_is_nothing(make) -> None:
    llm, _ = make(True)
    llm.round_rows()
    rows = llm.layout([], PROMPTS)
    assert rows.labels == 0 and shape(rows)[:3] == (0, 0, 0)


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("split", [False, True])
def test_a_run_has_few_sizes(captions: int, split: bool) -> None:
    """Of micro-batches with random captions, and at the price of few positions."""
    rng, pool = random.Random(0), list(invented_texts(TextSize(13.0, captions), 32, split))
    seen: dict[bool, list[tuple[int, ...]]] = {False: [], True: []}
    positions = {False: 0, True: 0}
    for _ in range(6 if captions == 5 else 30):
        texts = [rng.choice(pool) for _ in range(rng.choice([62, 64, 66]))]
        for sizes in (EXACT, ROUNDED):
            if split:
                rows = encoder_decoder_rows(texts, 32, 0, 2048, True, sizes=sizes)
            else:
                rows = decoder_rows(texts, 32, 4096, True, sizes=sizes)
            seen[sizes.rounds].append(shape(rows))
            positions[sizes.rounds] += rows.positions
    if captions == 1:  # with more of them packing takes long, and few micro-batches show little
        for part in (slice(0, 2), slice(2, 3)):
            few, many = (len({each[part] for each in seen[rounds]}) for rounds in (True, False))
            assert few <= many / 2
    assert positions[True] < (1.07 if split else 1.03) * positions[False]


def test_rounding() -> None:
    assert [ROUNDED.count(n) for n in (0, 1, 31, 32, 33, 63, 65, 130, 1000)] == [0, 1, 31, 32, 34, 64, 68, 136, 1024]
    assert all(n <= ROUNDED.count(n) <= n * 17 / 16 for n in range(1, 5000))
    assert [ROUNDED.length(n) for n in (0, 1, 8, 9, 250, 500)] == [0, 8, 8, 16, 256, 512]
    assert EXACT.count(17) == EXACT.length(17) == 17
    assert len({ROUNDED.count(n) for n in range(1000, 2001)}) <= 18


def test_what_stands_for_nothing_has_no_gradient() -> None:
    """Predictors of no label, at a position that predicts one, too."""
    llm, _ = llama(True)
    llm.round_rows()
    texts = [[Text.of((), (5, *range(6, 6 + n)))] for n in (15, 17, 11, 20)]
    rows = llm.layout(texts, PROMPTS)
    assert len(rows.predictors) > int((rows.targets >= 0).any(1).sum())
    _, gradient = loss_and_gradient(lambda p: llm.loss(p, rows), soft_prompts_for(llm.model, 4))
    assert torch.isfinite(gradient).all()

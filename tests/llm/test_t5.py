"""Encoder-decoder adapters against plain transformers on tiny random models."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from blip2 import blip2_texts
from conftest import PROMPTS, assert_same_loss, family, random_model, soft_prompts_for
from llm_t5.adapter import T5
from tiny_tokenizers import WORDS, unigram
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForSeq2SeqLM, BartConfig, T5Config

from vpgtrans_core.data.sample import Caption
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM
from vpgtrans_core.llm.segments import encoder_decoder_rows
from vpgtrans_core.llm.text import Text
from vpgtrans_core.testing.plain import plain_loss

TEXTS = [
    [Text.of((1,), (20, 21, 1)), Text.of((1,), (22, 1)), Text.of((7, 8, 1), (23, 24, 25, 26, 1))],
    [Text.of((9, 1), (30, 1))],
    [Text.of((1,), (31, 32, 33, 1)), Text.of((5, 6, 7, 8, 1), (34, 1))],
]


def t5(dtype=torch.float32, share: bool = True):
    """The adapter and an untouched copy of its model, of FlanT5's shape."""
    sizes = dict(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=328, relative_attention_max_distance=12
    )
    sizes |= dict(relative_attention_num_buckets=8, decoder_start_token_id=0)
    sizes |= dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = random_model(T5Config(**sizes), dtype, AutoModelForSeq2SeqLM)
    return T5(copy.deepcopy(model), unigram(), family("t5"), share), model


def test_packed_rows_hold_several_segments():
    """Many short segments in few rows: parity holds there too, relative positions and cross-attention included."""
    llm, model = t5(torch.float64)
    texts = TEXTS * 8
    rows = encoder_decoder_rows(texts, PROMPTS, start=0, width=4096, packs=True)
    assert rows.segments.max() > 5 and len(rows.ids) < 8
    assert rows.positions < 1.25 * ((rows.segments >= 0).sum() + (rows.decoder_texts >= 0).sum())
    prompts = soft_prompts_for(model, len(texts))
    assert_same_loss(llm, lambda p: plain_loss(model, p, texts), prompts, texts, 1e-7, rows)


def test_the_feed_forward_keeps_less_for_the_backward_pass():
    """FlanT5's composed activation gives way to one operation of the same function."""
    llm, model = t5(torch.float64)
    ours, theirs = (m.get_encoder().block[0].layer[1].DenseReluDense for m in (llm.model, model))
    inputs = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    kept = {}
    for name, block in (("ours", ours), ("theirs", theirs)):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            block(inputs)
        weights = sum(p.numel() for p in block.parameters())
        kept[name] = sum(sizes) - weights
    assert kept["ours"] < 0.5 * kept["theirs"]
    torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=0, atol=1e-14)
    assert llm.model.config.dense_act_fn == model.config.dense_act_fn  # what is saved says what it said


@pytest.mark.parametrize("mask", ["encoder_mask", "decoder_mask", "cross_mask"])
def test_a_wrong_mask_would_be_seen(mask, monkeypatch):
    llm, model = t5()
    right = getattr(type(llm.layout(TEXTS, PROMPTS)), mask)
    monkeypatch.setattr(
        f"vpgtrans_core.llm.segments.EncoderDecoderRows.{mask}", lambda rows: torch.ones_like(right(rows))
    )
    with pytest.raises(AssertionError):
        assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model, len(TEXTS)), TEXTS, 1e-3)


def test_texts_with_one_encoder_text_share_it():
    llm, _ = t5()
    texts = [[Text.of((1,), (20, 21, 1))] * 5]
    assert llm.positions(texts[0], 8) == (8 + 1) + 5 * 3
    assert llm.layout(texts, 8).positions == (8 + 1) + 5 * 3
    assert t5(share=False)[0].layout(texts, 8).positions == (8 + 1) + 5 * 3


def test_no_position_attends_to_nothing():
    rows = t5()[0].layout(TEXTS * 3, PROMPTS)
    for mask in (rows.encoder_mask(), rows.decoder_mask(), rows.cross_mask()):
        assert mask.any(-1).all()


@pytest.mark.parametrize("share", [True, False])
def test_an_encoder_decoder_with_absolute_positions_gets_padded_rows(share):
    sizes = dict(d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_layers=2, decoder_layers=2, vocab_size=328)
    sizes |= dict(encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64)
    config = BartConfig(**sizes, pad_token_id=0, bos_token_id=3, eos_token_id=1, decoder_start_token_id=1)
    model = random_model(config, torch.float64, AutoModelForSeq2SeqLM)
    torch.nn.init.normal_(model.final_logits_bias)
    llm = EncoderDecoderLLM(copy.deepcopy(model), unigram(), family("bart"), share)
    assert not llm.shares_prefix
    assert_same_loss(llm, lambda p: plain_loss(model, p, TEXTS), soft_prompts_for(model, len(TEXTS)), TEXTS, 1e-7)


def test_bfloat16_sums_the_loss_in_fp32():
    llm, model = t5(torch.bfloat16)
    prompts = soft_prompts_for(model, len(TEXTS))
    loss = llm.loss(prompts, llm.layout(TEXTS, PROMPTS)).detach()
    assert loss.dtype == torch.float32
    expected = plain_loss(model.float(), prompts.detach().float(), TEXTS).detach()
    assert float(loss) == pytest.approx(float(expected), rel=2e-2)


@pytest.mark.parametrize("prompt", ["", "question: what colour is it? short answer:"])
def test_generate_equals_blip2(prompt):
    llm, _ = t5()
    mine, theirs = blip2_texts(llm, prompt, GenerateOptions(num_beams=3, max_new_tokens=12, min_new_tokens=2))
    assert mine == theirs
    assert len(set(mine)) > 1, "the images must matter for this test to mean anything"


def test_a_caption_is_split_between_words():
    text = t5()[0].text
    caption = Caption("a red circle above the blue square")
    seen = set()
    for seed in range(200):
        encoded = text(caption, 32, random.Random(seed))
        assert encoded == text(caption, 32, random.Random(seed)), "the rng alone decides"
        assert encoded.context[-1] == encoded.target[-1] == 1
        first, rest = (text.tokenizer.decode(ids[:-1]) for ids in (encoded.context, encoded.target))
        assert rest and f"{first} {rest}".strip() == caption.text
        seen.add(len(first.split()))
    assert seen == set(range(7)), "from an empty prefix to all words but one"


def test_one_word_is_all_to_be_said():
    text = t5()[0].text
    assert text(Caption("circle"), 32, random.Random(0)) == Text.of((1,), text.prompt_ids("circle"))
    assert text(Caption(""), 32, random.Random(0)) == Text.of((1,), (1,))


def test_a_question_goes_into_the_encoder_whole():
    text = t5()[0].text
    encoded = text(Caption("blue", prompt="question: what colour is it?"), 32, random.Random(0))
    assert encoded.context == text.prompt_ids("question: what colour is it?")
    assert text.tokenizer.decode(encoded.target) == "blue</s>"


def test_long_texts_keep_their_end():
    encoded = t5()[0].text(Caption(WORDS), 5, random.Random(3))
    assert len(encoded.target) == 5 and encoded.target[-1] == 1 and len(encoded.context) <= 5


def test_generation_settings_name_the_decoder_start():
    assert t5()[0].generation_settings() == {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def test_layers_share_their_bias_and_compute_the_same() -> None:
    """To the bit, and the mask is put into the bias twice a stack, however many layers it has."""
    llm, _ = t5()
    assert llm.bool_masks and llm.model.config._attn_implementation == "sdpa_shared_bias"
    texts = [[Text.of((5,), (6, 7, 1)), Text.of((5,), (6, 8, 1))], [Text.of((), (9, 1))]]
    rows = llm.layout(texts, 3)
    results, put_together = [], []
    for kernel in ("sdpa_shared_bias", "sdpa"):
        llm.model.set_attn_implementation(kernel)
        prompts = torch.linspace(-1, 1, 6 * llm.embedding_size).view(2, 3, -1).requires_grad_()
        with CountedWhere() as counted:
            loss = llm.loss(prompts, rows)
        loss.backward()
        results.append((loss.detach(), prompts.grad))
        put_together.append(counted.heads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    layers = len(llm.model.encoder.block) + 2 * len(llm.model.decoder.block)
    assert put_together == [4, layers] == [4, 6]  # in each stack for the first layer and for all others


class CountedWhere(TorchFunctionMode):
    """Counts masks that are made for every head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.heads += function is torch.where and made.ndim == 4 and made.shape[1] > 1
        return made

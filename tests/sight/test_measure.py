"""Losses with exchanged and without pictures: against transformers' own forward, and where they must agree."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM
from vpgtrans_core.llm.text import Text
from vpgtrans_core.sight import measure
from vpgtrans_core.sight.exchange import group_of, partners
from vpgtrans_core.sight.measure import exchanged_loss, text_only_loss, without_images
from vpgtrans_core.testing.patch_vpg import WIDTH, PatchVPG
from vpgtrans_core.testing.tiny_models import random_model, tiny_config, tiny_tokenizer
from vpgtrans_core.train.step import Batch, Stepper
from vpgtrans_core.vlm.assemble import blank_projector
from vpgtrans_core.vlm.model import VLModel

END, BOS = 2, 1
TEXTS = [[[20, 21], [20, 22]], [[23, 24, 25]], [[20, 22], [20, 21]], [[26]], [[27, 21], [28]]]
"""The words of each picture's captions; the first and the third picture have the same ones."""


def model_of(kind: str) -> VLModel:
    seq2seq = kind == "t5"
    tokenizer = tiny_tokenizer(seq2seq)
    llm = random_model(tiny_config(kind, tokenizer, {}), 3).double()
    adapter: Any = EncoderDecoderLLM if seq2seq else DecoderOnlyLLM
    family = LLMFamily(kind, (kind,), "", encoder_decoder=seq2seq)
    torch.manual_seed(1)
    vpg = PatchVPG()
    wrapped = adapter(llm, tokenizer, family)
    model = VLModel(vpg, blank_projector(WIDTH, wrapped.embedding_size).double(), wrapped)
    torch.nn.init.normal_(model.projector.weight, std=0.3)
    model.train_only(("projector", "vpg"))
    return model


def texts_of(model: VLModel) -> list[list[Text]]:
    start = () if model.llm.family.encoder_decoder else (BOS,)
    read = (END,) if model.llm.family.encoder_decoder else ()
    return [[Text.of(read, (*start, *words, END)) for words in sample] for sample in TEXTS]


def batch_of(model: VLModel, some: list[int], kind: Any = "features") -> Batch:
    texts, features = texts_of(model), torch.randn(5, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    return Batch(features[some], kind, [texts[n] for n in some], [(0, n, 0, 0) for n in some], [1] * len(some))


def reference_loss(model: Any, soft_prompts: torch.Tensor, texts: list[list[Text]]) -> torch.Tensor:
    """The sum of the labels' losses by transformers' own forward, each text a row: ``[prompts] context target``."""
    total = soft_prompts.new_zeros(())
    table = model.get_input_embeddings()
    for number, sample in enumerate(texts):
        for text in sample:
            read, said = list(text.context), list(text.target)
            before = soft_prompts[number : number + 1]
            prompts = [part for part in (*before, table(torch.tensor(read, dtype=torch.long))) if len(part)]
            if model.config.is_encoder_decoder:
                decoder = torch.tensor([[model.config.decoder_start_token_id, *said[:-1]]])
                row = torch.cat(prompts)[None]
                logits = model(inputs_embeds=row, decoder_input_ids=decoder, use_cache=False).logits[0]
            else:
                row = torch.cat([*prompts, table(torch.tensor(said))])[None]
                logits = model(inputs_embeds=row, use_cache=False).logits[0][-len(said) - 1 : -1]
            total = total + cross_entropy(logits, torch.tensor(said), reduction="sum")
    return total


def stepper_of(model: VLModel) -> Stepper:
    return Stepper(model, Accelerator(cpu=True), 10_000)


@pytest.fixture(params=["llama", "opt", "t5"])
def model(request: pytest.FixtureRequest) -> VLModel:
    return model_of(request.param)


def test_exchanged_pictures_against_transformers(model: VLModel) -> None:
    stepper, batch = stepper_of(model), batch_of(model, [0, 1, 2, 3, 4])
    found = exchanged_loss(stepper, [batch], lambda items: items)
    assert found is not None and found.samples == 5
    pairs = partners([group_of(sample, 1) for sample in batch.texts])
    prompts = model.soft_prompts(batch.visual, "features").double().detach()
    reference = copy.deepcopy(model.llm.model)
    own = reference_loss(reference, prompts, list(batch.texts)) / batch.labels
    other = reference_loss(reference, prompts[[int(n or 0) for n in pairs]], list(batch.texts)) / batch.labels
    assert found.own == pytest.approx(float(own), rel=1e-6)
    assert found.exchanged == pytest.approx(float(other), rel=1e-6)
    assert found.own != pytest.approx(found.exchanged, rel=1e-4)


def test_two_processes_find_the_same_pairs(model: VLModel) -> None:
    """Each computes its own captions with pictures of both; together they have the sums of one process."""
    stepper = stepper_of(model)
    whole = exchanged_loss(stepper, [batch_of(model, [0, 1]), batch_of(model, [2, 3, 4])], lambda items: items)
    shares = [batch_of(model, [0, 2, 4]), batch_of(model, [1, 3])]
    every = [measure._samples([stepper.with_outputs(share)]) for share in shares]
    parts = [exchanged_loss(stepper, [share], lambda items: every) for share in shares]
    assert whole is not None and all(part is not None and part.samples == 5 for part in parts)
    labels = [share.labels for share in shares]
    for name in ("own", "exchanged"):
        mean = sum(getattr(part, name) * n for part, n in zip(parts, labels, strict=True)) / sum(labels)
        assert mean == pytest.approx(getattr(whole, name), rel=1e-6)


def test_without_pictures_against_transformers(model: VLModel) -> None:
    batch = batch_of(model, [0, 1, 2, 3, 4])
    found = text_only_loss(stepper_of(model), [batch])
    alone = [[without_images(text, model.llm) for text in sample] for sample in batch.texts]
    nothing = torch.zeros(0, 4, model.llm.embedding_size, dtype=torch.float64)
    wanted = reference_loss(copy.deepcopy(model.llm.model), nothing, alone)
    assert found == pytest.approx(float(wanted) / batch.labels, rel=1e-6)
    assert sum(text.labels for sample in alone for text in sample) == batch.labels - (
        0 if model.llm.family.encoder_decoder else batch.captions
    ), "only the start tokens cost nothing"


def test_a_text_without_a_start_token_reads_one() -> None:
    llm = model_of("llama").llm
    alone = without_images(Text.of((), (20, 21, END)), llm)
    assert [piece.ids for piece in alone.pieces] == [(BOS,), (20, 21, END)] and alone.labels == 3
    assert without_images(Text.of((BOS, 30), (20, END)), llm).pieces == Text.of((BOS, 30), (20, END)).pieces[1:]


def test_measuring_computes_nothing_that_is_frozen(model: VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.vpg, "features", lambda pixels: pytest.fail("the frozen part ran"))
    asked: list[int] = []
    prompts = model.vpg.prompts
    monkeypatch.setattr(model.vpg, "prompts", lambda features: asked.append(len(features)) or prompts(features))
    exchanged_loss(stepper_of(model), [batch_of(model, [0, 1, 3])], lambda items: items)
    assert asked == [3]  # once for both losses
    text_only_loss(stepper_of(model), [batch_of(model, [0, 1, 3])])
    assert asked == [3]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_partners_are_a_derangement_of_groups(groups: list[int]) -> None:
    found = partners(groups)
    chosen = [other for other in found if other is not None]
    assert len(set(chosen)) == len(chosen), "a picture is used once"
    assert all(other is None or groups[other] != group for other, group in zip(found, groups, strict=True))
    most = max(Counter(groups).values(), default=0)
    if 2 * most <= len(groups):
        assert None not in found
    else:
        assert chosen or len(set(groups)) <= 1


def test_a_set_of_equal_captions_has_no_partners(model: VLModel) -> None:
    assert exchanged_loss(stepper_of(model), [batch_of(model, [0, 2])], lambda items: items) is None

"""Texts whose images stand anywhere: rows, losses, generation, and what encoders make of conversations."""

from __future__ import annotations

import pickle
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces_parity import CASES, END, FAMILIES, PROMPTS, apart, reference_loss, text

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Caption, Conversation, ImageMark, Turn
from vpgtrans_core.llm.adapter import GenerateOptions
from vpgtrans_core.llm.loss import NO_LABEL
from vpgtrans_core.llm.rows import decoder_rows
from vpgtrans_core.llm.segments import encoder_decoder_rows
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.templates import choose_template

NAMED = {one.name: one for one in FAMILIES}


@pytest.mark.parametrize("one", FAMILIES, ids=lambda one: one.name)
def test_loss_and_gradient_equal_plain_transformers(one):
    """The table that ``python tests/llm/pieces_parity.py`` prints."""
    llm, model = one.make()
    for share in {llm.shares_prefix, False}:
        llm.shares_prefix = share
        for case in CASES:
            assert max(apart(llm, model, case)) < one.tolerance, (case.name, share)


@torch.no_grad()
def test_the_comparison_sees_another_image_in_the_place():
    llm, model = NAMED["OPT, fp64"].make()
    case = next(case for case in CASES if case.name == "two images")
    swapped = [[text([2], 1, 0, [51, 43, 44], (62, 63, END))] if n else sample for n, sample in enumerate(case.texts)]
    prompts = torch.randn(4, PROMPTS, 32, dtype=torch.float64)
    loss = llm.loss(prompts, llm.layout(case.texts, PROMPTS, case.images))
    assert float(loss) == pytest.approx(float(reference_loss(model, prompts, case.texts, case.images)), rel=1e-9)
    assert float(loss) != pytest.approx(float(reference_loss(model, prompts, swapped, case.images)), rel=1e-9)


def test_a_template_before_the_image_is_computed_once():
    (sample,) = next(case for case in CASES if case.name == "system prompt").texts
    shared, padded = (decoder_rows([sample], PROMPTS, 4096, share=share) for share in (True, False))
    # [2, 70, 71], and nothing more: then the system prompts part.
    assert (shared.positions, shared.labels) == (sum(length(t) for t in sample) - 3, padded.labels)


def length(one: Text) -> int:
    """Positions of a text whose last label is never read."""
    return sum(PROMPTS if isinstance(piece, ImagePlace) else len(piece.ids) for piece in one.pieces) - 1


runs = st.one_of(
    st.builds(ImagePlace, st.integers(0, 1)),
    st.builds(Tokens, st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), st.booleans()),
)
texts = st.lists(runs, max_size=5).map(lambda pieces: Text((Tokens((4,)), *pieces)))


def spelled(one: Text, first: int, prompts: int) -> tuple[list[int], list[int]]:
    """A text written out: what stands at each place (soft prompts negative), and which places are labels."""
    line, labels = [], []
    for piece in one.pieces:
        if isinstance(piece, ImagePlace):
            line += [-1 - ((first + piece.index) * prompts + q) for q in range(prompts)]
        else:
            labels += [len(line) + n for n in range(len(piece.ids)) if piece.labelled]
            line += piece.ids
    return line, labels


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(texts, max_size=4), max_size=4), st.booleans(), st.integers(1, 2))
def test_every_label_sees_its_own_text_and_nothing_else(samples, share, prompts):
    """What a label's predictor attends to spells the text before the label, with its own images, in either layout."""
    rows = decoder_rows(samples, prompts, 8, share, [2] * len(samples))
    size = rows.ids.shape[-1]
    stands = rows.ids.flatten().tolist()
    for slot, source in zip(rows.prompt_slots.tolist(), rows.prompt_sources.tolist(), strict=True):
        stands[slot] = -1 - source
    seen = []
    if len(rows.ids):
        tril = torch.ones(size, size).tril().bool()[None]
        mask = rows.mask()[:, 0] if share else tril & rows.attention.bool()[:, None, :]
        for position, labels in zip(rows.predictors.tolist(), rows.targets.tolist(), strict=True):
            row, place = divmod(position, size)
            before = [row * size + j for j in mask[row, place].nonzero().flatten().tolist()]
            assert not share or rows.depths.flatten()[before].tolist() == list(range(len(before)))
            seen += [([stands[b] for b in before], label) for label in labels if label != NO_LABEL]
    wanted = []
    for number, sample in enumerate(samples):
        for one in sample:
            line, labels = spelled(one, 2 * number, prompts)
            wanted += [(line[:place], line[place]) for place in labels]
    assert sorted(seen) == sorted(wanted) and rows.labels == len(wanted) == sum(t.labels for s in samples for t in s)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(texts, max_size=3), max_size=3), st.booleans())
def test_encoder_decoder_rows_hold_each_text(samples, packs):
    """Each label is predicted from what its text says before it, and reads what its text has before the first label."""
    samples = [
        [Text(t.split()[0] + tuple(p for p in t.split()[1] if isinstance(p, Tokens))) for t in s] for s in samples
    ]
    rows = encoder_decoder_rows(samples, 2, start=9, width=8, packs=packs, images=[2] * len(samples))
    stands = rows.ids.flatten().tolist()
    for slot, source in zip(rows.prompt_slots.tolist(), rows.prompt_sources.tolist(), strict=True):
        stands[slot] = -1 - source
    seen = []
    for position, (label,) in zip(rows.predictors.tolist(), rows.targets.tolist(), strict=True):
        row, place = divmod(position, rows.decoder_ids.shape[1])
        said = rows.decoder_ids[row][rows.decoder_mask()[row, 0, place]].tolist()
        first = int(rows.encoder_rows[row]) * rows.ids.shape[1]
        read = [stands[first + j] for j in rows.cross_mask()[row, 0, place].nonzero().flatten().tolist()]
        seen.append((read, said, label))
    wanted = []
    for number, sample in enumerate(samples):
        for one in sample:
            before, after = one.split()
            read, _ = spelled(Text(before), 2 * number, 2)
            line, labels = spelled(Text(after), 0, 2)
            wanted += [(read, [9, *line[:place]], line[place]) for place in labels]
    assert sorted(seen) == sorted(wanted) and rows.labels == len(wanted)


def images_first(one: Text) -> Text:
    """Without the images after the first label."""
    before, after = one.split()
    return Text(before + tuple(piece for piece in after if isinstance(piece, Tokens)))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="begin with a label"):
        decoder_rows([[text((5, 6), 0)]], 2, 8, share=True)
    with pytest.raises(ValueError, match="an image after a label"):
        encoder_decoder_rows([[text([5], (6,), 0)]], 2, start=0, width=8, packs=True)
    with pytest.raises(ValueError, match="counts of images"):
        decoder_rows([[text(0, (6,))]], 2, 8, share=True, images=[1, 1])
    with pytest.raises(IndexError):
        decoder_rows([[text(1, (6,))]], 2, 8, share=True)
    with pytest.raises(TypeError):
        Text((), (5, 6))  # what Text.of takes


@pytest.mark.parametrize("name", ["OPT", "LLaMA", "Qwen2", "BLOOM", "T5", "BART"])
def test_generation_continues_texts_as_transformers_does(name):
    """Prompts of two lengths, with images inside, two images and an earlier answer, each alone through transformers."""
    llm, model = NAMED[name].make()
    prompts = [
        text([2, 40], 0, [41, 43]),
        text([2, 40], 0, [42, 43]),
        text([2], 0, [46], 1, [51, 43]),
        text([2, 40], 0, [41, 43], (60, END), [52, 43]),
    ]
    torch.manual_seed(3)
    soft = torch.randn(5, PROMPTS, model.config.hidden_size, dtype=model.dtype)
    options = GenerateOptions(num_beams=2, max_new_tokens=6, min_new_tokens=2)
    arguments = llm.generation_arguments(options)
    arguments.eos_token_id = llm.text.answer_end
    wanted, table, first = [], model.get_input_embeddings(), 0
    for one in prompts:
        seq2seq = model.config.is_encoder_decoder
        read, said = one.split() if seq2seq else (one.pieces, ())
        embeds = [soft[first + p.index] if isinstance(p, ImagePlace) else table(torch.tensor(p.ids)) for p in read]
        begun = [model.config.decoder_start_token_id, *(i for p in said for i in p.ids)] if seq2seq else []
        more = {"decoder_input_ids": torch.tensor([begun])} if said else {}
        ids = model.generate(inputs_embeds=torch.cat(embeds)[None], generation_config=arguments, **more)
        wanted += llm.tokenizer.batch_decode(ids[:, len(begun) :] if said else ids, skip_special_tokens=True)
        first += one.images
    assert llm.generate(soft, prompts, options) == [one.strip() for one in wanted]
    assert len(llm.generate(soft[:4], prompts[0], options)) == 4
    assert len(llm.generate(soft[:4], prompts[2], options)) == 2
    with pytest.raises(ValueError, match="5 images, but there are 4"):
        llm.generate(soft[:4], prompts, options)


QUESTIONS = Conversation(
    (
        Turn("system", ("be kind",)),
        Turn("user", (ImageMark(0), "what colour is", ImageMark(1), "it ?")),
        Turn("assistant", ("a red circle",)),
        Turn("user", ("and where ?",)),
        Turn("assistant", ("on the left\nof it",)),
    )
)


def test_a_decoder_reads_the_template_and_says_the_answers():
    llm, _ = NAMED["OPT"].make()
    template = choose_template("minigpt4", llm.tokenizer)
    made = llm.text.encode_spans(template.spans(QUESTIONS))
    decoded = [p.index if isinstance(p, ImagePlace) else llm.tokenizer.decode(list(p.ids)) for p in made.pieces]
    assert decoded == [
        "</s>", "be kind ###Human: <Img>", 0, "</Img> what colour is<Img>", 1, "</Img> it ? ###Assistant:",
        " a red circle###", "Human: and where ? ###Assistant:", " on the left\nof it###",
    ]  # fmt: skip
    assert [p.labelled for p in made.pieces if isinstance(p, Tokens)] == [False] * 4 + [True, False, True]
    assert (
        pickle.loads(pickle.dumps(llm.text)).encode_spans(choose_template("minigpt4", llm.tokenizer).spans(QUESTIONS))
        == made
    )
    asked = Conversation(QUESTIONS.turns[:-1])
    assert llm.text.encode_spans(template.spans(asked)).pieces == made.pieces[:-1], (
        "what is generated is what is learned"
    )


def test_an_encoder_decoder_reads_up_to_the_first_answer():
    llm, _ = NAMED["T5"].make()
    made = llm.text.encode_spans(choose_template("plain", llm.tokenizer).spans(QUESTIONS))
    before, after = made.split()
    assert [p.index for p in before if isinstance(p, ImagePlace)] == [0, 1] and before[-1] == Tokens((1,))
    assert [p.labelled for p in after] == [True, False, True] and all(p.ids[-1] == 1 for p in after if p.labelled)
    late = Conversation((*QUESTIONS.turns[1:4], Turn("user", (ImageMark(2),)), QUESTIONS.turns[4]))
    with pytest.raises(BadSampleError, match="after the first answer"):
        llm.text.encode_spans(choose_template("plain", llm.tokenizer).spans(late))


@pytest.mark.parametrize("name", ["OPT", "T5"])
@pytest.mark.parametrize("limit", [1, 5, 12, 25, 40, 60, 1000])
def test_cut_labels_are_counted_exactly(name, limit, caplog):
    llm, _ = NAMED[name].make()
    llm.tokenizer.model_max_length = 8  # transformers would warn
    template = choose_template("plain" if name == "T5" else "minigpt4", llm.tokenizer)  # its vocabulary has no "###"
    whole = llm.text.encode_spans(template.spans(QUESTIONS))
    cut = llm.text.encode_spans(template.spans(QUESTIONS), limit)
    assert whole.cut == 0 and cut.labels + cut.cut == whole.labels and cut.whole == whole.whole
    assert (cut.cut == 0) == (limit >= whole.whole) or name == "T5"
    for caption in (
        Caption("a red circle above a square"),
        Caption("red", prompt="what colour is the circle ? answer:"),
    ):
        every, some = (llm.text.encode(caption, most, random.Random(0)) for most in (1000, limit))
        assert every.cut == 0 and some.labels + some.cut == every.labels and some.whole == every.whole
        assert (some == every) == (limit >= every.whole)
    assert "longer than the specified maximum" not in caplog.text


def test_memory_is_measured_by_what_a_text_shares():
    llm = NAMED["LLaMA"].make()[0]
    two = [text([2], 0, [5], (6, 7)), text([2], 0, [5], (8, 9)), text([3], 0, (6,))]
    assert llm.positions(two, 10) == 2 * 10 + 4 + 4 + 2
    llm.shares_prefix = False
    assert llm.positions(two, 10) == 3 * 10 + 4 + 4 + 2


def test_losses_of_several_answers_add_up():
    """What is labelled does not change what is read."""
    llm = NAMED["OPT, fp64"].make()[0]
    soft = torch.randn(1, PROMPTS, 32, dtype=torch.float64)
    first, both, second = (
        llm.loss(soft, llm.layout([[one]], PROMPTS))
        for one in (
            text([2], 0, [5], (6, 7), [8], [9, 10]),
            text([2], 0, [5], (6, 7), [8], (9, 10)),
            text([2], 0, [5], [6, 7], [8], (9, 10)),
        )
    )
    assert float(both) == pytest.approx(float(first + second), rel=1e-12)

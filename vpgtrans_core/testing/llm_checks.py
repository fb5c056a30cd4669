"""The checks of an LLM family. Each raises `CheckFailed` with the reason; all run on tiny random models, offline."""

from __future__ import annotations

import dataclasses
import random
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vpgtrans_core.cards import BosOrder, LLMCard, load
from vpgtrans_core.data.sample import Caption
from vpgtrans_core.llm.adapter import LLM, GenerateOptions, trainable_names
from vpgtrans_core.llm.embeddings import EmbeddingReader, open_embeddings
from vpgtrans_core.llm.empty import empty_model
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.models.sizes import card_config
from vpgtrans_core.testing.checks import Check, CheckFailed, check, expect, expect_known_declarations
from vpgtrans_core.testing.llm_subject import PROMPTS, TEXTS, LLMSubject
from vpgtrans_core.testing.opening import expect_active, expect_declared_rightly, expect_no_heavy_import
from vpgtrans_core.testing.plain import difference, plain_loss, plain_loss_of_ids
from vpgtrans_core.testing.tiny_models import has_tied_head
from vpgtrans_core.testing.transferring import expect_the_same_again
from vpgtrans_core.weights import sha256_tensors

NEAR = 1e-5
"""Largest relative difference of word embeddings that are read in fp32 from those that a model computes."""
IDS = torch.tensor([[45, 70, 131, 99, 202], [60, 61, 62, 63, 64]])

LLM_CHECKS: list[Check] = []


@check(LLM_CHECKS, "the plugin's __init__.py: import torch in the adapter's module only")
def torch_free_import(subject: LLMSubject) -> None:
    """The plugin's module and hooks load without torch."""
    expect_no_heavy_import(subject.opened)


@check(LLM_CHECKS, "the hook vpgt_llm_families")
def description_resolves(subject: LLMSubject) -> None:
    """The plugin is active; its family, adapter and embedding reader are what they must be."""
    expect_active(subject.opened)
    expect_known_declarations(subject.unsupported, LLM_CHECKS)
    expect_declared_rightly(subject.opened)
    adapter = load(subject.family.adapter)
    expect(isinstance(adapter, type) and issubclass(adapter, LLM), f"{subject.family.adapter} is not a subclass of LLM")
    reader = _reader(subject)
    expect(issubclass(reader, EmbeddingReader), f"{reader} is not a subclass of EmbeddingReader")


@check(LLM_CHECKS, "VPGT_CONFORMANCE['FAMILY']['config'], and the adapter's `prepare`")
def tiny_model_loads(subject: LLMSubject) -> None:
    """A tiny random model of the family is built offline and loaded by the adapter."""
    llm = subject.llm()
    training = any(module.training for module in llm.model.modules())
    expect(not training, "the model is in training mode: its dropout would be on", "the adapter's `freeze`")
    seq2seq = bool(subject.reference.config.is_encoder_decoder)
    said = f"the family says encoder_decoder={subject.family.encoder_decoder}, transformers says {seq2seq}"
    expect(seq2seq == subject.family.encoder_decoder, said, "the family's card")


@check(LLM_CHECKS, "the cards' hidden_size and vocab_size, and the embedding reader's `vectors`")
def embedding_access_has_its_shape(subject: LLMSubject) -> None:
    """The word embeddings have the shape that each card says, and that the adapter's model has."""
    reader = _reader(subject)
    opened, llm = open_embeddings(subject.folder, reader), subject.llm()
    expect(
        opened.shape[1] == llm.embedding_size,
        f"the reader gives {opened.shape[1]} dimensions, the adapter's soft prompts have {llm.embedding_size}",
    )
    for card in subject.family.cards:
        model = _model_of(card, subject)
        made, shapes = reader(model), model.state_dict()
        rows = torch.zeros(1, made.shape[1], device="meta")
        width = made.vectors(rows, {name: shapes[name] for name in made.extra()}).shape[1]
        found = (made.shape[0], width)
        wanted = (card.vocab_size, card.embedding_size)
        expect(found == wanted, f"{card.alias}: a model of its config embeds {found}, its card says {wanted}")


@check(LLM_CHECKS, "the cards' parameters, and `config` for what the card's other fields do not say")
def cards_count_their_parameters(subject: LLMSubject) -> None:
    """Each card's number of parameters is that of a model of its config."""
    for card in subject.family.cards:
        model = _model_of(card, subject)
        count = sum(p.numel() for p in model.parameters())
        right = {count}
        if card.config.get("tie_word_embeddings") is False and has_tied_head(model):
            right.add(count + model.get_output_embeddings().weight.numel())  # T5's: see `untie_head`
        said = f"{card.alias}: a model of its config has {max(right):_} parameters, its card says {card.parameters:_}"
        expect(card.parameters in right, said)


@check(LLM_CHECKS, "the hook vpgt_embedding_access and its reader's `vectors`; the adapter's `embed`")
def embedding_table_is_the_adapters(subject: LLMSubject) -> None:
    """The table that is read from the checkpoint equals what the adapter's `embed` gives."""
    opened, ids = open_embeddings(subject.folder, _reader(subject)), torch.arange(4, 260)
    gap = difference(opened(ids), subject.llm().embed(ids))
    expect(gap < NEAR, f"rows of the checkpoint's table and `embed` differ by {gap:.2g}: a scale or projection?")


@check(LLM_CHECKS, "the embedding reader's `vectors` and the adapter's `embed`", optional=True)
def embedding_table_is_what_the_first_block_sees(subject: LLMSubject) -> None:
    """Two words at one place differ in the first block's input by the difference of their embeddings."""
    seen = _first_block_inputs(subject.reference, IDS, subject.decoder_start(len(IDS)))
    embedded = open_embeddings(subject.folder, _reader(subject))(IDS.flatten()).view(*IDS.shape, -1)
    found, wanted = embedded[0] - embedded[1], seen[0] - seen[1]
    expect(found.shape == wanted.shape, f"the first block sees {tuple(wanted.shape)}, the table {tuple(found.shape)}")
    gap = difference(found, wanted)
    expect(gap < NEAR, f"the table differs from what the first block sees by {gap:.2g}: a scale or projection?")


@check(LLM_CHECKS, "the adapter's `embed` and `prepare`")
def inputs_embeds_equal_input_ids(subject: LLMSubject) -> None:
    """Words that enter as soft prompts do give the logits that they give as ids."""
    llm, more = subject.llm(), subject.decoder_start(len(IDS))
    with torch.no_grad():
        wanted = subject.reference(input_ids=IDS, **more).logits
        found = llm.model(inputs_embeds=llm.embed(IDS), **more).logits
    gap = difference(found, wanted)
    expect(gap < subject.tolerance, f"logits from `inputs_embeds` and from `input_ids` differ by {gap:.2g}")


@check(LLM_CHECKS, "the adapter's `layout` with share=False: masks and positions of padded rows")
def padding_changes_nothing(subject: LLMSubject) -> None:
    """Padded rows give each text the loss that it has alone."""
    _same_alone_and_together(subject, subject.llm(share=False), "padded rows")


@check(LLM_CHECKS, "the adapter's `layout`: what belongs to one image must not reach another")
def batching_changes_nothing(subject: LLMSubject) -> None:
    """A batch of images gives each image the loss that it has alone."""
    _same_alone_and_together(subject, subject.llm(), "a batch")


@check(LLM_CHECKS, "the adapter's `may_share`, `trunk`, and the model's mask and position ids", optional=True)
def packing_changes_nothing(subject: LLMSubject) -> None:
    """Captions that share one visual prefix have the losses and gradients that they have in rows of their own."""
    packed, padded = subject.llm(), subject.llm(share=False)
    expect(packed.shares_prefix, "the adapter does not share an image's prefix; declare it unsupported, with the cause")
    expect(not padded.shares_prefix, "share=False is not obeyed", "the adapter's `load`")
    few, many = (llm.layout(TEXTS, PROMPTS).positions for llm in (packed, padded))
    expect(few < many, f"packed rows have {few} positions, padded ones {many}: nothing is shared")
    texts = subject.many_texts
    prompts = subject.soft_prompts(len(texts))
    found, wanted = (_loss_and_gradient(subject, llm, prompts, texts) for llm in (packed, padded))
    _same(subject, found, wanted, "packed rows")


@check(LLM_CHECKS, "the adapter's `text_encoder`, and `layout`: labels are the targets' tokens alone")
def labels_are_where_they_belong(subject: LLMSubject) -> None:
    """The caption and its end are labels; the prompt is not; a cut caption has at most as many tokens as allowed."""
    llm, rng = subject.llm(), random.Random(0)
    rows = llm.layout(TEXTS, 4)
    count = sum(text.labels for image in TEXTS for text in image)
    expect(rows.labels == count, f"the rows carry {rows.labels} labels, the texts have {count}")
    said = "a red circle on the left"
    text = llm.text.encode(Caption(said), 64, rng)
    whole = " ".join(filter(None, (_words(llm, text.context), _words(llm, text.target))))
    expect(whole == said, f"the caption {said!r} became {text}")
    ends = _ends(llm)
    expect(text.target[-1] in ends, f"the target ends in {text.target[-1]}, the end tokens are {sorted(ends)}")
    if not subject.family.encoder_decoder:
        expect(_words(llm, text.target) == said, f"not all of the caption {said!r} is a label: {text}")
    asked = llm.text.encode(Caption("red", "question: what colour is it? answer:"), 64, rng)
    expect("colour" in _words(llm, asked.context), f"the prompt is not in the context: {asked}")
    expect(_words(llm, asked.target) == "red", f"after a prompt {_words(llm, asked.target)!r} is labelled, not 'red'")
    cut = llm.text.encode(Caption(said), 3, rng)
    expect(0 < len(cut.target) <= 3, f"max_tokens=3 gave {len(cut.target)} target tokens")


@check(LLM_CHECKS, "the `text_encoder`'s `encode` and `prompt_text`, and the family's `bos`")
def texts_begin_as_trained(subject: LLMSubject) -> None:
    """BOS stands where the family says; a generated caption begins after what a learned one begins after."""
    llm, prompt = subject.llm(), "question: what colour is it? answer:"
    learned = llm.text.encode(Caption("red", prompt), 64, random.Random(0)).split()[0]
    asked = llm.text.prompt_text(prompt).pieces
    expect(learned == asked, f"a caption is learned after {learned}, but generated after {asked}")
    start = getattr(llm.text, "start", ())
    if start and not subject.family.encoder_decoder:
        for bos in get_args(BosOrder):
            family = dataclasses.replace(subject.family, bos=bos)
            pieces = load(family.adapter).load(subject.folder, family=family).text.prompt_text("").pieces
            wanted = (Tokens(start), ImagePlace()) if bos == "first" else (ImagePlace(), Tokens(start))
            expect(pieces == wanted, f"with bos={bos!r} an image without a prompt is read as {pieces}")


@check(LLM_CHECKS, "the adapter's `loss`, `trunk` and `run_head`")
def loss_equals_transformers(subject: LLMSubject) -> None:
    """With words in the place of soft prompts the loss is transformers' own for those ids, text by text."""
    llm, ids = subject.llm(), subject.prompt_ids()
    with torch.no_grad():
        found = subject.loss(llm, llm.embed(ids))
        wanted = plain_loss_of_ids(subject.reference, ids, TEXTS)
    gap = difference(found, wanted)
    expect(gap < subject.tolerance, f"the loss is {float(found):.9g}, transformers' {float(wanted):.9g}")


@check(LLM_CHECKS, "the adapter's `loss`: what is detached or scaled between soft prompts and loss")
def gradient_equals_transformers(subject: LLMSubject) -> None:
    """The gradient that reaches the soft prompts is transformers' own."""
    llm, prompts = subject.llm(), subject.soft_prompts()
    wanted = plain_loss(llm.model, prompts, TEXTS)
    (gradient,) = torch.autograd.grad(wanted, prompts)
    _same(subject, _loss_and_gradient(subject, llm, prompts), (wanted.detach(), gradient), "the adapter")


@check(LLM_CHECKS, "the adapter's `loss` and `layout`: nothing may write to the LLM's weights")
def llm_bits_stay(subject: LLMSubject) -> None:
    """After a training step every bit of the LLM is as it was."""
    llm = subject.load(subject.folder)
    before = sha256_tensors(dict(llm.model.state_dict()))
    _train_one_step(subject, llm)
    expect(sha256_tensors(dict(llm.model.state_dict())) == before, "the LLM's weights changed in a training step")


@check(LLM_CHECKS, "the adapter's `freeze`")
def gradients_only_where_trained(subject: LLMSubject) -> None:
    """The projector gets a gradient; no parameter of the LLM wants or gets one."""
    llm = subject.load(subject.folder)
    model = _train_one_step(subject, llm)
    wanting = trainable_names(llm.model)
    expect(not wanting, f"parameters of the LLM want gradients: {', '.join(wanting[:3])}")
    got = [name for name, p in llm.model.named_parameters() if p.grad is not None]
    expect(not got, f"parameters of the LLM got gradients: {', '.join(got[:3])}")
    gradient = model.projector.weight.grad
    expect(gradient is not None and gradient.abs().sum() > 0, "no gradient reached the projector", "the adapter's loss")


@check(LLM_CHECKS, "the adapter's `generation_settings` and `text_encoder`: they must agree on the end token")
def generation_ends(subject: LLMSubject) -> None:
    """Generation stops where the LLM says the token that captions are trained to end in, and does not show it."""
    llm = subject.load(subject.folder)
    end = llm.text.encode(Caption("a red circle"), 64, random.Random(0)).target[-1]
    calls = 0

    def say_the_end(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        nonlocal calls
        calls += 1
        logits[..., end] = 1e4

    handle = llm.model.get_output_embeddings().register_forward_hook(say_the_end)
    try:
        options = GenerateOptions(num_beams=1, max_new_tokens=12, min_new_tokens=2)
        texts = llm.generate(subject.soft_prompts().detach(), "", options)
    finally:
        handle.remove()
    expect(len(texts) == len(TEXTS), f"{len(texts)} texts for {len(TEXTS)} images")
    expect(calls <= 3, f"the LLM said the end ({end}) from the third token on, and was asked for {calls} tokens")
    shown = _words(llm, (end,), keep=True)
    expect(not shown or all(shown not in text for text in texts), f"the end token is in the texts: {texts}")


@check(LLM_CHECKS, "the adapter's `prepare`: what it saves, it must leave alone when it loads it again")
def saving_and_loading_keep_every_bit(subject: LLMSubject) -> None:
    """What is saved and loaded again has the same weights and gives the same loss, bit for bit."""
    llm, folder = subject.load(subject.folder), subject.home / "saved"
    llm.model.save_pretrained(folder)
    llm.tokenizer.save_pretrained(folder)
    again = subject.load(folder)
    old, new = llm.model.state_dict(), again.model.state_dict()
    expect(set(old) == set(new), f"other tensors came back: {sorted(set(old) ^ set(new))[:3]}")
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    expect(not changed, f"tensors changed: {', '.join(changed[:3])}")
    prompts = subject.soft_prompts().detach().float()
    with torch.no_grad():
        first, second = subject.loss(llm, prompts), subject.loss(again, prompts)
    expect(torch.equal(first, second), f"the loss was {float(first):.9g} and is {float(second):.9g}")
    expect(llm.generation_settings() == again.generation_settings(), "the generation settings changed")


@check(LLM_CHECKS, "the run's message; then the checks above, of which one may have failed for the same cause")
def transfer_of_two_steps(subject: LLMSubject) -> None:
    """A whole transfer to a model of the family runs: word converter, both stages, writing."""
    assert subject.transferred.is_dir()


@check(LLM_CHECKS, "what registers the model's classes: `LLMFamily.classes`; and the check above")
def output_loads_in_a_new_process(subject: LLMSubject) -> None:
    """A new process loads what the transfer wrote, and says of a picture what this one says."""
    expect_the_same_again(subject.opened, subject.transferred)


def _model_of(card: LLMCard, subject: LLMSubject) -> Any:
    """A model of a card's config on the meta device."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.for_model(**card_config(card, subject.family))
    except Exception as error:  # transformers checks its configs with many kinds of error
        said = f"{card.alias}: its fields make no config: {' '.join(str(error).split())}"
        raise CheckFailed(said, "the card's `config`: further fields under transformers' names") from error
    return empty_model(config)


def _reader(subject: LLMSubject) -> Any:
    access = subject.opened.registry.embedding_access(subject.model_type, subject.opened.record.name)
    return load(access.reader) if access else EmbeddingReader


def _first_block_inputs(model: Any, ids: Tensor, more: dict[str, Tensor]) -> Tensor:
    from transformers.modeling_layers import GradientCheckpointingLayer

    first = next((m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)), None)
    expect(first is not None, "the model has no blocks that can be told from its other modules")
    seen: list[Tensor] = []
    assert first is not None
    handle = first.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, **more)
    finally:
        handle.remove()
    return seen[0]


def _loss_and_gradient(
    subject: LLMSubject, llm: LLM, prompts: Tensor, texts: list[list[Text]] | None = None
) -> tuple[Tensor, Tensor]:
    loss = subject.loss(llm, prompts, texts)
    expect(loss.requires_grad, "no gradient goes from the loss to the soft prompts", "the adapter's `loss`")
    (gradient,) = torch.autograd.grad(loss, prompts)
    return loss.detach(), gradient


def _same(subject: LLMSubject, found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], what: str) -> None:
    gap = difference(found[0], wanted[0])
    expect(gap < subject.tolerance, f"{what}: the loss is {float(found[0]):.9g} instead of {float(wanted[0]):.9g}")
    gap = difference(found[1], wanted[1])
    expect(gap < subject.tolerance, f"{what}: the gradient of the soft prompts differs by {gap:.2g}")


def _same_alone_and_together(subject: LLMSubject, llm: LLM, what: str) -> None:
    prompts = subject.soft_prompts().detach()
    with torch.no_grad():
        whole = subject.loss(llm, prompts)
        alone = sum(
            (subject.loss(llm, prompts[[i]], [[text]]) for i, image in enumerate(TEXTS) for text in image),
            torch.zeros(()),
        )
    gap = difference(whole, alone)
    said = f"{what}: the loss is {float(whole):.9g}, that of the texts alone {float(alone):.9g}"
    expect(gap < subject.tolerance, said)


def _words(llm: LLM, ids: tuple[int, ...], *, keep: bool = False) -> str:
    text = llm.tokenizer.decode(list(ids), skip_special_tokens=not keep)
    assert isinstance(text, str)
    return text.strip()


def _ends(llm: LLM) -> set[int]:
    value = llm.generation_settings()["eos_token_id"]
    return set(value) if isinstance(value, list) else {value}


def _train_one_step(subject: LLMSubject, llm: LLM) -> Any:
    """One step of stage 2 with the kit's VPG; returns the VL-LLM, gradients still in place."""
    from vpgtrans_core.testing.patch_vpg import SIZE, PatchVPG
    from vpgtrans_core.vlm.model import VLModel

    torch.manual_seed(5)
    vpg = PatchVPG()
    model = VLModel(vpg, nn.Linear(vpg.output_size, llm.embedding_size), llm)
    model.train_only(("projector", "vpg"))
    pixels = torch.randn(len(TEXTS), 3, SIZE, SIZE)
    subject.loss(llm, model.soft_prompts(pixels, "pixels")).backward()
    torch.optim.AdamW(model.trained().values(), lr=1e-2).step()
    return model

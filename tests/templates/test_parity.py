"""Loss and gradient of a conversation in its template, against transformers' own of the rendered conversation.

The reference renders and tokenizes with transformers alone: `apply_chat_template` of a tokenizer that knows
``<image>``. Labels are the tokens between an answer's prompt, rendered with ``add_generation_prompt``, and its end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from llm_opt.adapter import OPT
from llm_t5.adapter import T5
from transformers import AutoModelForSeq2SeqLM, GemmaConfig, T5Config

from tests.llm.conftest import family, llama_config, loss_and_gradient, opt_config, random_model
from tests.llm.tiny_tokenizers import byte_level, metaspace, unigram
from tests.templates import sources
from tests.templates.test_templates import TALK
from vpgtrans_core.data.conversation import Conversation
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.templates import chat_text, choose_template
from vpgtrans_core.templates.chat import DATE, IMAGE, messages

PROMPTS = 3


class Case(NamedTuple):
    adapter: Any
    config: Any
    tokenizer: Callable[[], Any]
    template: str
    source: str | None = None
    added: tuple[str, ...] = ()


def gemma_config() -> GemmaConfig:
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    return GemmaConfig(**sizes, num_key_value_heads=1, vocab_size=344)


def t5_config() -> T5Config:
    sizes = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=328, decoder_start_token_id=0)
    return T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)


DECODERS = {
    "OPT": Case(OPT, opt_config(max_position_embeddings=700), byte_level, "vicuna"),
    "LLaMA": Case(DecoderOnlyLLM, llama_config(), metaspace, "own", sources.LLAMA2),
    "SmolLM": Case(
        DecoderOnlyLLM, llama_config(tie_word_embeddings=True), byte_level, "own", sources.SMOLLM, sources.CHATML
    ),
    "Gemma": Case(DecoderOnlyLLM, gemma_config(), metaspace, "own", sources.GEMMA, sources.TURNS),
}


def tokenizer_of(case: Case, *more: str) -> Any:
    made = case.tokenizer()
    made.add_tokens([*case.added, *more], special_tokens=True)
    made.chat_template = case.source
    return made


def rendered(case: Case, source: str) -> tuple[list[int], list[int]]:
    """Ids and labels of the conversation, by transformers; the id of ``<image>`` is -1."""
    made = tokenizer_of(case, IMAGE)

    def ids(turns: int, *, ask: bool = False) -> list[int]:
        talk = messages(Conversation(TALK.turns[:turns]))
        return made.apply_chat_template(
            talk, chat_template=source, add_generation_prompt=ask, return_dict=False, date_string=DATE
        )

    whole = ids(4)
    end = made.convert_tokens_to_ids(case.added[-1] if case.added else "</s>")
    labels = [-100] * len(whole)
    for turns in (1, 3):
        begin = len(ids(turns, ask=True))
        stop = whole.index(end, begin) + 1
        labels[begin:stop] = whole[begin:stop]
    image = made.convert_tokens_to_ids(IMAGE)
    return [-1 if i == image else i for i in whole], labels


@pytest.mark.parametrize("name", DECODERS)
def test_loss_and_gradient_of_a_decoder(name: str) -> None:
    case = DECODERS[name]
    model = random_model(case.config, torch.float32)
    llm = case.adapter(copy.deepcopy(model), tokenizer_of(case), family())
    template = choose_template(case.template, llm.tokenizer)
    ids, labels = rendered(case, template.source)
    table = model.get_input_embeddings()

    def reference(soft: torch.Tensor) -> torch.Tensor:
        images = iter(soft)
        parts = [next(images) if i < 0 else table(torch.tensor([i])) for i in ids]
        aligned = [x for i, label in zip(ids, labels, strict=True) for x in ([-100] * PROMPTS if i < 0 else [label])]
        row = torch.cat(parts)[None]
        mean = model(inputs_embeds=row, labels=torch.tensor([aligned]), use_cache=False).loss
        return mean * sum(label >= 0 for label in labels)

    torch.manual_seed(1)
    soft = (torch.randn(2, PROMPTS, model.config.hidden_size) * 0.3).requires_grad_()
    text = chat_text(llm.text, template, TALK)
    assert text.labels == sum(label >= 0 for label in labels)
    rows = llm.layout([[text]], PROMPTS, [2]).to("cpu")
    ours, theirs = (loss_and_gradient(loss, soft) for loss in (lambda p: llm.loss(p, rows), reference))
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-5)
    assert float((ours[1] - theirs[1]).norm() / theirs[1].norm()) < 1e-5


def test_loss_and_gradient_of_an_encoder_decoder() -> None:
    """The encoder reads the rendered prompt of the first answer, the decoder has the rest."""
    model = random_model(t5_config(), torch.float64, AutoModelForSeq2SeqLM)
    llm = T5(copy.deepcopy(model), unigram(), family())
    template = choose_template("plain", llm.tokenizer)
    talk = Conversation((*TALK.turns[:2], TALK.turns[3].__class__("user", ("and where ?",)), TALK.turns[3]))
    made = unigram()
    asked = template.render(Conversation(talk.turns[:1]), ask=True).split(IMAGE)[1]
    read = made(asked).input_ids
    said = made(template.render(talk).removeprefix(IMAGE + asked), add_special_tokens=False).input_ids
    where = made("and where ?", add_special_tokens=False).input_ids
    begin = said.index(made.eos_token_id) + 1
    assert said[begin : begin + len(where)] == where
    labels = [-100 if begin <= n < begin + len(where) else i for n, i in enumerate(said)]
    table = model.get_input_embeddings()

    def reference(soft: torch.Tensor) -> torch.Tensor:
        row = torch.cat([soft[0], table(torch.tensor(read))])[None]
        shifted = torch.tensor([[0, *said[:-1]]])
        logits = model(inputs_embeds=row, decoder_input_ids=shifted, use_cache=False).logits[0]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")

    torch.manual_seed(1)
    soft = (torch.randn(1, PROMPTS, 32, dtype=torch.float64) * 0.3).requires_grad_()
    rows = llm.layout([[chat_text(llm.text, template, talk)]], PROMPTS, [1]).to("cpu")
    ours, theirs = (loss_and_gradient(loss, soft) for loss in (lambda p: llm.loss(p, rows), reference))
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-5)
    assert float((ours[1] - theirs[1]).norm() / theirs[1].norm()) < 1e-5

"""Chat templates: what is rendered, which tokens it becomes, what is learned, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tests.llm import tiny_tokenizers
from tests.templates import sources
from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.llm.decoder import DecoderOnlyLLM
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.miniature import ZOO
from vpgtrans_core.settings import build
from vpgtrans_core.templates import ChatTemplate, chat_text, choose_template, template_names, write_template
from vpgtrans_core.templates.chat import DATE, IMAGE, messages

TALK = Conversation(
    (
        Turn("user", (ImageMark(0), "what colour is the circle ?")),
        Turn("assistant", ("red\nand blue",)),
        Turn("user", ("and", ImageMark(1), "?")),
        Turn("assistant", ("a green square",)),
    )
)
ASKED = Conversation(TALK.turns[:3])
OWN = {
    "SmolLM": (sources.SMOLLM, sources.CHATML, "<|im_end|>"),
    "Gemma": (sources.GEMMA, sources.TURNS, "<end_of_turn>"),
    "Llama 2": (sources.LLAMA2, (), "</s>"),
    "with empty thoughts": (sources.THINKING, sources.CHATML, "<|im_end|>"),
}
KINDS = {"byte level": tiny_tokenizers.byte_level, "sentence pieces": tiny_tokenizers.metaspace}


def tokenizer(kind: str, added: tuple[str, ...] = (), chat: str | None = None) -> Any:
    made = KINDS[kind]()
    made.add_tokens([AddedToken(token, normalized=False, special=True) for token in added], special_tokens=True)
    made.chat_template = chat
    return made


def encoded(made: Any, template: ChatTemplate, talk: Conversation = TALK) -> Text:
    return chat_text(DecoderOnlyLLM.text_encoder_of(made, LLMFamily("any", ("any",), "any:LLM")), template, talk)


def with_image(text: Text, image: int) -> list[int]:
    return [i for piece in text.pieces for i in (piece.ids if isinstance(piece, Tokens) else (image,))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OWN)
def test_a_tokenizers_own_template_gives_the_tokens_of_transformers(name: str, kind: str) -> None:
    source, added, end = OWN[name]
    made, knows_image = (tokenizer(kind, (*added, *more), source) for more in ((), (IMAGE,)))
    template = choose_template("auto", made)
    assert (template.name, template.end) == ("own", end)
    for talk in (TALK, ASKED):
        asks = talk is ASKED
        theirs = knows_image.apply_chat_template(
            messages(talk),
            chat_template=template.source,
            add_generation_prompt=asks,
            return_dict=False,
            date_string=DATE,
        )
        assert with_image(encoded(made, template, talk), knows_image.convert_tokens_to_ids(IMAGE)) == theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*OWN, *template_names()])
def test_what_is_learned_is_the_answers_and_their_ends(name: str, kind: str) -> None:
    source, added, _ = OWN.get(name, (None, (), ""))
    made = tokenizer(kind, added, source)
    template = choose_template(name if source is None else "own", made)
    text = encoded(made, template)
    said = [made.decode(list(p.ids)).strip() for p in text.pieces if isinstance(p, Tokens) and p.labelled]
    answers = [one.removesuffix(template.end).strip().removeprefix("<think>\n\n</think>").strip() for one in said]
    assert answers == ["red\nand blue", "a green square"] and all(one.endswith(template.end) for one in said)
    assert [p.index for p in text.pieces if isinstance(p, ImagePlace)] == [0, 1] and text.end == template.end
    assert pickle.loads(pickle.dumps(template)).spans(TALK) == template.spans(TALK)
    prompt = encoded(made, template, ASKED)
    assert with_image(text, -1)[: len(with_image(prompt, -1))] == with_image(prompt, -1), (
        "the model is asked as it was taught"
    )
    if made.bos_token_id != made.eos_token_id:
        starts = 2 if name == "Llama 2" else 0 if added == sources.CHATML else 1
        assert with_image(text, -1).count(made.bos_token_id) == starts


def test_minigpt4_is_the_papers_token_for_token() -> None:
    """The paper's code: BOS, then each part of the prompt and the answer tokenized alone; the image inside."""
    made = tokenizer("sentence pieces")
    question = "Describe this image in detail."
    text = encoded(made, choose_template("minigpt4", made), Conversation.about_image(question, "a red circle ."))

    def ids(part: str) -> list[int]:
        return made(part, add_special_tokens=False).input_ids

    before, after = ["###Human: <Img>", "</Img> Describe this image in detail. ###Assistant: "]
    read = [made.bos_token_id, *ids(before), -1, *ids(after)]
    learned = ids("a red circle .###")
    assert with_image(text, -1) == [*read, *learned]
    assert list(text.target) == learned and text.end == "###"
    asked = encoded(made, choose_template("minigpt4", made), Conversation.about_image(question))
    assert with_image(asked, -1) == read


def test_what_the_folder_records_renders_the_same(tmp_path: Path) -> None:
    for name in template_names():
        for kind in KINDS:
            made = tokenizer(kind)
            template = choose_template(name, made)
            write_template(tmp_path, template)
            again = choose_template("auto", made, tmp_path)
            assert again == template and encoded(made, again) == encoded(made, template)
            made.chat_template = (tmp_path / "chat_template.jinja").read_text()
            rendered = made.apply_chat_template(messages(TALK), tokenize=False)
            assert rendered == template.render(TALK) and rendered.startswith(made.bos_token)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (sources.NO_END, "an answer has no end"),
        (sources.NO_PROMPT, "cannot be told from its prompt"),
        (sources.BROKEN, "cannot be used"),
        ("{{ messages | length }}", f"does not write {IMAGE}"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(source: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(source)
    with pytest.raises(ModelError, match=cause) as caught:
        choose_template(str(tmp_path / "mine.jinja"), tokenizer("byte level"))
    assert "template" in caught.value.hint


def test_a_file_of_jinja_is_a_template(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(sources.LLAMA2)
    made = tokenizer("byte level")
    own = tokenizer("byte level", chat=sources.LLAMA2)
    assert encoded(made, choose_template(str(tmp_path / "mine.jinja"), made)) == encoded(
        own, choose_template("own", own)
    )
    with pytest.raises(ConfigError, match="cannot read the template"):
        choose_template(str(tmp_path / "other.jinja"), made)


def test_a_model_without_template_and_a_tokenizer_that_cannot_write_the_end() -> None:
    made = tokenizer("byte level")
    assert choose_template("auto", made).name == "minigpt4"
    with pytest.raises(ModelError, match="has no chat template") as caught:
        choose_template("auto", made, defaults=())
    assert "minigpt4" in caught.value.hint
    from transformers import AutoTokenizer

    few = AutoTokenizer.from_pretrained(ZOO / "t5-mini")
    assert choose_template("auto", few).name == "plain"
    with pytest.raises(ModelError, match="ends answers with '###', which this tokenizer does not know"):
        choose_template("minigpt4", few)
    with pytest.raises(ConfigError, match="unknown template 'vicunna'; did you mean"):
        build({"template": "vicunna"})


def test_conversations_that_a_template_does_not_take() -> None:
    made = tokenizer("byte level", sources.TURNS, sources.GEMMA)
    system = Conversation((Turn("system", ("be kind",)), *TALK.turns))
    with pytest.raises(BadSampleError, match="System role not supported"):
        choose_template("own", made).spans(system)
    twice = Conversation((*TALK.turns[:1], *TALK.turns))
    with pytest.raises(BadSampleError, match="must alternate"):
        choose_template("own", made).spans(twice)
    written = Conversation.about_image(f"what does {IMAGE} mean ?", f"a place for {IMAGE}")
    spans = choose_template("own", made).spans(written)
    assert sum(isinstance(span, ImageMark) for span in spans) == 1
    assert any(f"for {IMAGE}" in getattr(span, "text", "") for span in spans)

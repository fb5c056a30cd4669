"""A conversation: what the model reads, what is kept, how it is stopped, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import threading

import pytest
import torch
from PIL import Image

from vpgtrans_core.chat.chat import MOST_PICTURES, Chat
from vpgtrans_core.chat.options import CHAT, changed
from vpgtrans_core.chat.speaker import Speaker
from vpgtrans_core.data.conversation import Conversation, ImageMark, Turn
from vpgtrans_core.errors import ConfigError, DataError, ModelError
from vpgtrans_core.llm.text import ImagePlace, Text, Tokens
from vpgtrans_core.registry import default_registry
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.captioning import answer, load_model

SHORT = dataclasses.replace(CHAT, max_new_tokens=8)
QUESTIONS = ("question: what is it ? answer:", "question: what color is it ? answer:")


def coloured(colour: str) -> Image.Image:
    return Image.new("RGB", (40, 30), colour)


def talk(chat: Chat, question: str, options=SHORT) -> str:
    return list(chat.ask(question, options))[-1]


@pytest.mark.parametrize("beams", [1, 3])
def test_the_second_answer_follows_the_whole_conversation(chat: Chat, speaker: Speaker, beams: int) -> None:
    """It is what the model generates after both questions and the first answer, with both images in their places."""
    options = dataclasses.replace(SHORT, num_beams=beams)
    chat.show([coloured("red")])
    first = talk(chat, QUESTIONS[0], options)
    chat.show([coloured("blue")])
    second = talk(chat, QUESTIONS[1], options)
    whole = Conversation(
        (
            Turn("user", (ImageMark(0), QUESTIONS[0])),
            Turn("assistant", (first,)),
            Turn("user", (ImageMark(1), QUESTIONS[1])),
        )
    )
    assert second == answer(speaker.model, whole, [coloured("red"), coloured("blue")], options=options)
    assert [(e.question, e.answer) for e in chat.past] == list(zip(QUESTIONS, (first, second), strict=True))


def test_an_answer_is_shown_while_it_grows(chat: Chat) -> None:
    chat.show([coloured("red")])
    shown = list(chat.ask(QUESTIONS[0], SHORT))
    assert len(shown) > 3
    assert all(after.startswith(before) for before, after in itertools.pairwise(shown))
    chat.reset()
    chat.show([coloured("red")])
    assert list(chat.ask(QUESTIONS[0], dataclasses.replace(SHORT, num_beams=2)))[:-1] == []


def test_a_conversation_needs_no_image(chat: Chat, speaker: Speaker) -> None:
    said = talk(chat, QUESTIONS[0])
    ids = speaker.write(Conversation((Turn("user", (QUESTIONS[0],)),))).pieces
    prompt = torch.tensor([[i for piece in ids for i in piece.ids]])
    llm = speaker.model.llm
    arguments = llm.generation_arguments(SHORT)
    arguments.eos_token_id = llm.tokenizer.eos_token_id
    told = llm.model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=arguments)
    assert said == llm.tokenizer.decode(told[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def test_temperature_draws_words_at_random(chat: Chat) -> None:
    def drawn(seed: int, temperature: float) -> str:
        torch.manual_seed(seed)
        chat.reset()
        chat.show([coloured("red")])
        return talk(chat, QUESTIONS[0], dataclasses.replace(SHORT, temperature=temperature))

    assert len({drawn(seed, 0) for seed in range(4)}) == 1
    assert len({drawn(seed, 2) for seed in range(4)}) > 1
    assert drawn(7, 2) == drawn(7, 2)


def test_the_vpg_sees_an_image_once(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    features = speaker.model.vpg.features
    monkeypatch.setattr(speaker.model.vpg, "features", lambda pixels: seen.append(len(pixels)) or features(pixels))
    for chat in (Chat(speaker), Chat(speaker)):
        chat.show([coloured("teal")])
        for question in QUESTIONS:
            talk(chat, question)
    assert seen == [1]


def test_the_oldest_turns_go_and_the_picture_stays(chat: Chat, notes: list[str], speaker: Speaker, monkeypatch) -> None:
    """The LLM has 128 positions; nothing that it reads is longer, and it is said once."""
    lengths = []
    answer_ = speaker.answer

    def watched(prompt, pictures, options, stop):
        lengths.append(speaker.length(prompt, pictures) + options.max_new_tokens)
        assert len(pictures) == prompt.images == 1
        return answer_(prompt, pictures, options, stop)

    monkeypatch.setattr(speaker, "answer", watched)
    chat.show([coloured("red")])
    for _ in range(12):
        talk(chat, QUESTIONS[0], dataclasses.replace(CHAT, max_new_tokens=20))
    assert max(lengths) <= 128
    assert len(notes) == 1 and "oldest turns" in notes[0]
    assert len(chat.past) == 12


def test_a_long_answer_does_not_push_a_conversation_out(chat: Chat, speaker: Speaker, monkeypatch) -> None:
    """300 tokens are wanted, which the LLM does not have; the turn before is read all the same."""
    read = []
    answer_ = speaker.answer
    monkeypatch.setattr(speaker, "answer", lambda prompt, *rest: read.append(prompt) or answer_(prompt, *rest))
    chat.show([coloured("red")])
    talk(chat, QUESTIONS[0])
    talk(chat, QUESTIONS[1], CHAT)
    assert read[1].tokens > read[0].tokens + 8


def test_stopping_keeps_what_was_said(chat: Chat) -> None:
    chat.show([coloured("red")])
    answers = chat.ask(QUESTIONS[0], CHAT)
    next(answers)
    chat.stop()
    *_, stopped = answers
    assert [e.answer for e in chat.past] == [stopped]
    assert talk(chat, QUESTIONS[1])


def test_closing_the_iterator_stops_too(chat: Chat) -> None:
    chat.show([coloured("red")])
    answers = chat.ask(QUESTIONS[0], CHAT)
    first = next(answers)
    answers.close()
    assert [e.answer for e in chat.past] == [first]
    assert not [t for t in threading.enumerate() if t.daemon and "work" in t.name]


def test_an_error_of_the_model_is_raised_and_changes_nothing(chat: Chat, speaker: Speaker, monkeypatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(speaker.model.llm, "stream", broken)
    chat.show([coloured("red")])
    with pytest.raises(RuntimeError, match="out of memory"):
        talk(chat, QUESTIONS[0])
    assert not chat.past and len(chat.pending) == 1


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question(chat: Chat, question: str) -> None:
    with pytest.raises(DataError, match="the question is empty"):
        talk(chat, question)


def test_a_question_longer_than_the_llm(chat: Chat) -> None:
    chat.show([coloured("red")])
    with pytest.raises(DataError, match=r"takes \d+ positions \(8 for 1 images\), and the language model has 128"):
        talk(chat, "what " * 200)
    assert not chat.past and len(chat.pending) == 1


def test_too_many_images_for_the_positions_and_for_a_question(chat: Chat) -> None:
    chat.show([coloured("red")] * MOST_PICTURES)
    with pytest.raises(DataError, match=r"\(128 for 16 images\)") as error:
        talk(chat, QUESTIONS[0])
    assert "fewer images" in error.value.hint
    chat.reset()
    with pytest.raises(DataError, match="40 images are too many"):
        chat.show([coloured("red")] * 40)
    assert not chat.pending


def test_an_image_that_is_none(chat: Chat, picture, tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"bad.png cannot be used: no image"):
        chat.show([picture, tmp_path / "bad.png"])
    with pytest.raises(DataError, match="cannot read the image"):
        chat.show([tmp_path / "none.png"])
    assert not chat.pending


def test_models_that_cannot_chat(tmp_path) -> None:
    registry = default_registry()
    model = load_model("opt-mini-s", Settings(device="cpu"), registry)
    model.template = None
    with pytest.raises(ModelError, match="no chat template") as error:
        Speaker(model)
    assert "--template" in error.value.hint
    with pytest.raises(ModelError, match="without a language model"):
        Speaker.load("vpg-mini", Settings(device="cpu", template="plain"), registry)


def test_room_of_an_encoder_decoder() -> None:
    """T5's positions have no end; where they have one, the encoder's part and the decoder's are counted apart."""
    from types import SimpleNamespace

    from vpgtrans_core.llm.encoder_decoder import EncoderDecoderLLM

    prompt = Text((ImagePlace(), Tokens((5, 6)), Tokens((7, 8, 9), labelled=True)))
    llm = EncoderDecoderLLM.__new__(EncoderDecoderLLM)
    for positions, room in ((None, None), (20, 20 - 1 - 3), (6, 6 - 1 - 3), (5, 5 - 6)):
        llm.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions))
        assert llm.room(prompt, num_prompts=4) == room


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", "3"), ("beams", "1.5"), ("beams", "x"), ("length", "0"), ("temprature", "1")]
)
def test_settings_that_are_none(name: str, value: str) -> None:
    with pytest.raises(ConfigError):
        changed(CHAT, name, value)
    assert changed(CHAT, "beams", "4").num_beams == 4

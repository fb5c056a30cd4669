"""Conversations: LLaVA's files, templates, and the way of both to a loader's texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.conftest import LetterEncoder, picture, save_pictures
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import Bounds
from vpgtrans_core.data.captions import clean
from vpgtrans_core.data.conversation import Caption, Conversation, ImageMark, Span, Turn
from vpgtrans_core.data.data import Data, open_data
from vpgtrans_core.data.images import Augmentation, pixels
from vpgtrans_core.data.listing import Listing
from vpgtrans_core.data.loader import Loader, ReadOptions, StepData, StepReader
from vpgtrans_core.data.order import Draw
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.llm.loading import load_tokenizer
from vpgtrans_core.llm.text import ImagePlace, Tokens
from vpgtrans_core.miniature import ZOO
from vpgtrans_core.templates import choose_template

SIZE = Preprocessing(16)
PLAIN, MINIGPT4 = (choose_template(name, load_tokenizer(ZOO / "opt-mini-s")) for name in ("plain", "minigpt4"))


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of the two sides by turns, in LLaVA's form."""
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(turns)]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    save_pictures(folder / "images", 8)
    (folder / "llava.json").write_text(json.dumps(rows))
    return folder / "llava.json"


ROWS = [
    {
        "image": "000.png",
        "conversations": said("<image>\nWhat colour is it?", "It is RED.\nAll red.", "Why?", "Paint!"),
    },
    {"image": "000.png", "conversations": said("Describe the image.", "A Red Ball.")},
    {"image": ["001.png", "002.png"], "conversations": said("Is <image> like <image>?", "No.", "Sure?", "Yes.")},
    {"image": ["003.png"], "conversations": [{"from": "system", "value": "Be brief."}, *said("What is it?", "A cat.")]},
    {"image": ["004.png", "005.png"], "conversations": said("Compare them.", "Equal.")},
    {"conversations": said("Hello?", "Hello.")},
]


def test_a_llava_file_is_read_whole(tmp_path: Path) -> None:
    listing = open_data([write(tmp_path, ROWS)]).listings[0]
    assert (len(listing), listing.captions, listing.imageless) == (4, 7, 1) and not listing.bad.total
    both, pair, cat, unmarked = listing
    assert [len(sample.images) for sample in listing] == [1, 2, 1, 2]
    assert [image.name for sample in listing for image in sample.images] == [f"00{n}.png" for n in range(6)]
    colour = Conversation(
        (
            Turn("user", (ImageMark(0), "What colour is it?")),
            Turn("assistant", ("It is RED.\nAll red.",)),
            Turn("user", ("Why?",)),
            Turn("assistant", ("Paint!",)),
        )
    )
    assert both.texts[0] == colour == Conversation.loads(colour.dumps())
    assert pair.texts[0].turns[0].content == ("Is", ImageMark(0), "like", ImageMark(1), "?")
    assert [turn.role for turn in cat.texts[0].turns] == ["system", "user", "assistant"]
    assert unmarked.texts[0].turns[0].content == (ImageMark(0), ImageMark(1), "Compare them.")
    assert listing.captions_of(torch.arange(4).numpy()).tolist() == [3, 2, 1, 1]


def test_captions_of_a_conversation_are_its_answers(tmp_path: Path) -> None:
    kept, cleaned = (open_data([write(tmp_path, ROWS)], clean=how).listings[0] for how in (None, clean))
    assert kept[0].captions == (
        Caption("It is RED. All red.", "What colour is it?"),
        Caption("Paint!", "Why?"),
        Caption("A Red Ball."),
    )
    assert [c.text for c in cleaned[0].captions] == ["it is red all red", "paint", "a red ball"]
    assert kept.fingerprint() != cleaned.fingerprint()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"image": "000.png", "conversations": said("<image> <image>?", "No.")}, "more image marks than images"),
        ({"image": ["000.png", "001.png"], "conversations": said("<image>?", "No.")}, "1 image marks but 2 images"),
        ({"image": "000.png", "conversations": said("What?", "This: <image>")}, "an answer contains an image"),
        ({"image": "000.png", "conversations": [{"from": "gpt", "value": "Yes."}]}, "begins with a turn of the user"),
        ({"image": "000.png", "conversations": [{"from": "me", "value": "?"}, *said("?", "!")]}, "known speaker"),
        ({"image": [7], "conversations": said("?", "!")}, "not a file name"),
    ],
)
def test_rows_that_mean_nothing_are_named(row: dict[str, Any], what: str, tmp_path: Path) -> None:
    listing = open_data([write(tmp_path, [row, *ROWS])], bounds=Bounds(0.5, 9)).listings[0]
    assert listing.bad.counts == {bad.BAD_ROW: 1} and what in str(listing.bad.named[0])


def test_templates_write_conversations() -> None:
    talk = Conversation((Turn("user", (ImageMark(0), "Why?")), Turn("assistant", ("So.",)), Turn("user", ("Sure?",))))
    assert MINIGPT4.spans(talk) == [
        Span("###Human: <Img>"), ImageMark(0), Span("</Img> Why? ###Assistant: "),
        Span("So.###", labelled=True, ended=True), Span("Human: Sure? ###Assistant: "),
    ]  # fmt: skip
    assert PLAIN.spans(talk) == [ImageMark(0), Span("Why?"), Span(" So.", labelled=True), Span("Sure?")]


def steps(data: Data, **options: Any) -> list[StepData]:
    workers = options.pop("workers", 0)
    reader = StepReader(data, LetterEncoder(), ReadOptions(SIZE, max_tokens=1000, template=PLAIN, **options))
    return list(Loader(reader, data.order(0, 3), start=0, stop=6, workers=workers))


def test_instructions_come_through_workers_as_they_come_here(tmp_path: Path) -> None:
    data = open_data([write(tmp_path, ROWS)])
    here, there = (steps(data, texts="instruction", augmentation=Augmentation(), workers=w) for w in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert (a.keys, a.texts, a.images, a.image_views) == (b.keys, b.texts, b.images, b.image_views)
        assert torch.equal(a.visual, b.visual) and len(a.visual) == sum(a.images) == len(a.image_views)
    texts = {key: texts for step in here for key, texts in zip(step.keys, step.texts, strict=True)}
    assert {key: len(made) for key, made in texts.items()} == {
        "000.png": 2, "001.png 002.png": 1, "003.png": 1, "004.png 005.png": 1
    }  # fmt: skip
    (pair,) = texts["001.png 002.png"]
    assert [p.index for p in pair.pieces if isinstance(p, ImagePlace)] == [0, 1]
    assert [bytes(p.ids) for p in pair.pieces if isinstance(p, Tokens) and p.labelled] == [b" No.", b" Yes."]


def test_each_image_stands_in_its_place(tmp_path: Path) -> None:
    data = open_data([write(tmp_path, ROWS)])
    reader = StepReader(data, LetterEncoder(), ReadOptions(SIZE, texts="instruction", template=PLAIN))
    step = reader.read(0, [Draw(0, row, 0) for row in (2, 1, 3)])
    wanted = torch.stack([pixels(picture(n), SIZE) for n in (3, 1, 2, 4, 5)])
    assert torch.equal(step.visual, wanted) and step.images == [1, 2, 2]
    assert step.image_views == [(0, 2, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1), (0, 3, 0, 0), (0, 3, 0, 1)]
    names = EntryNames(data, reader.options)
    assert len({names.name(*view) for view in step.image_views}) == 5


def test_a_sample_with_one_broken_image_is_left_out_whole(tmp_path: Path) -> None:
    data = open_data([write(tmp_path, ROWS)])
    (tmp_path / "images" / "002.png").write_bytes(b"nothing")
    reader = StepReader(data, LetterEncoder(), ReadOptions(SIZE, texts="instruction", template=PLAIN))
    step = reader.read(0, [Draw(0, row, 0) for row in range(4)])
    assert step.keys == ["000.png", "003.png", "004.png 005.png"] and step.images == [1, 1, 2]
    assert [(m.place, m.sample.key) for m in step.bad] == [(1, "001.png 002.png")]


def test_captions_are_about_one_image(tmp_path: Path) -> None:
    data = open_data([write(tmp_path, ROWS)])
    step = StepReader(data, LetterEncoder(), ReadOptions(SIZE)).read(0, [Draw(0, row, 0) for row in range(4)])
    assert step.keys == ["000.png", "003.png"] and [len(texts) for texts in step.texts] == [3, 1]
    assert {missed.sample.kind for missed in step.bad} == {bad.BAD_TEXT} and step.images == [1, 1]


def test_plain_captions_can_be_instructions() -> None:
    data = open_data([Listing.from_pairs([(picture(0), ["a ball", Caption("red", "What colour?")])])])
    step = StepReader(data, LetterEncoder(), ReadOptions(SIZE, 99, texts="instruction", template=MINIGPT4)).read(
        0, [Draw(0, 0, 0)]
    )
    asked = [[bytes(p.ids) for p in one.pieces if isinstance(p, Tokens)] for one in step.texts[0]]
    assert asked == [
        [b"###Human: <Img>", b"</Img>  ###Assistant: ", b"a ball###"],
        [b"###Human: <Img>", b"</Img> What colour? ###Assistant: ", b"red###"],
    ]

"""The demo's rule for sentences in free words, and the demo with the model that stands in."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from vpgtrans_core.miniature.data import items
from vpgtrans_core.miniature.language import SYNONYMS, plain_caption
from vpgtrans_core.miniature.world import Scene, Thing
from vpgtrans_core.settings import build
from zoo import real_demo
from zoo.free_words import KINDS, right, words, wrong
from zoo.score import read, truth
from zoo.sheet import Voice, draw_sheet

CUP = Thing("teal", "cup", "large", 0, 0)
BALL = Thing("red", "ball", "small", 0, 2)
LONE, PAIR = Scene((CUP,), "night"), Scene((CUP, BALL), "wood")


def marked(sentence: str, scene: Scene) -> list[str]:
    said = words(sentence)
    return [said[index] for index in sorted(wrong(sentence, scene))]


@pytest.mark.parametrize("item", items("held", 60), ids=lambda item: item.key)
def test_every_caption_of_the_world_is_right(item):
    for caption in (*item.captions, plain_caption(item.scene)):
        assert marked(caption, item.scene) == []
        assert all(right(caption, item.scene).values()), caption


@pytest.mark.parametrize(
    ("sentence", "scene", "wrongs", "missed"),
    [
        ("A huge cyan-colored mug in the night sky.", LONE, [], set()),
        ("a large aqua glass in a field", LONE, ["field"], {"place"}),
        ("a large red cup at night", LONE, ["red"], {"colour"}),
        ("a teal hat in the dark", LONE, ["hat"], {"noun"}),
        ("two teal cups at night", LONE, [], {"count"}),
        ("a small red circle and a large turquoise cup on the table", PAIR, [], set()),
        ("a large red cup next to a teal ball on a desk", PAIR, ["red", "teal"], {"colour"}),
        ("a large teal cup and a large teal cup at night", LONE, [], set()),
        ("a small red ball on the floor", PAIR, [], {"colour", "noun", "count"}),
        ("ground, ground, ground", PAIR, [], set(KINDS)),
        ("", PAIR, [], set(KINDS)),
    ],
)
def test_what_a_sentence_gets_wrong(sentence, scene, wrongs, missed):
    assert marked(sentence, scene) == wrongs
    assert {kind for kind, is_right in right(sentence, scene).items() if not is_right} == missed


@pytest.mark.parametrize("item", items("val", 100, num_captions=1), ids=lambda item: item.key)
def test_a_plain_caption_tells_all_and_uses_no_synonym(item):
    caption = plain_caption(item.scene)
    assert read(caption) == truth(item.scene)
    assert not set(caption.split()) & {synonym for synonyms in SYNONYMS.values() for synonym in synonyms}


def test_the_captions_of_other_pictures_are_not_right():
    shown = items("held", 60)
    exchanged = [right(one.captions[0], other.scene) for one, other in pairwise(shown)]
    assert sum(all(told.values()) for told in exchanged) == 0


def test_the_sheet_is_small_and_has_no_empty_part(tmp_path):
    shown = items("held", 8)
    voices = [Voice(name, [item.captions[n] for item in shown]) for n, name in enumerate(("source", "target"))]
    draw_sheet(shown, voices, tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as sheet:
        grey = sheet.convert("L")
        for half in ((0, 0, grey.width // 2, grey.height), (grey.width // 2, 0, grey.width, grey.height)):
            part = grey.crop(half)
            assert sum(part.histogram()[:250]) > 0.3 * part.width * part.height
    assert (tmp_path / "demo.png").stat().st_size < 300_000


def test_without_the_package_the_miniature_stands_in_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(real_demo, "PACKAGES", ("json", "no_such_package"))
    values = real_demo.run_settings(Path("demo"), seed=3)
    assert values == {"source": "opt-mini-s", "target": "llama-mini", "seed": 3, "out": "demo/llama-mini"}
    assert "not installed: no-such-package." in capsys.readouterr().out


def test_the_shipped_settings_are_a_run_of_the_real_model(tmp_path, monkeypatch):
    monkeypatch.setattr(real_demo, "PACKAGES", ("json",))
    monkeypatch.setattr(real_demo.pictures, "TRAINING", 4)
    values = real_demo.run_settings(tmp_path, seed=0)
    settings = build(values)
    assert settings.target == "smollm2-135m" and settings.dtype in ("float32", "bfloat16")
    for listed in (*settings.data, settings.val_data):
        rows = json.loads(Path(listed).read_text())
        assert all((Path(listed).parent / row["image"]).is_file() for row in rows)
        assert len({row["image_id"] for row in rows}) == len(rows)  # one caption each

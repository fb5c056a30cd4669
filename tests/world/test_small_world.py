"""The small real world: built of a folder of fake packages, which has the layout of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vpgtrans_core.data.data import open_data
from vpgtrans_core.errors import DataError
from zoo.world.first_projector import fit
from zoo.world.pictures import BOTH, CONCEPTS, PARTS, STYLE, TRAIN, build, is_held
from zoo.world.score import by_chance, right, shares, sight, spoken, table
from zoo.world.styles import STYLES, code_of, on_white, slug_of
from zoo.world.words import plain

EMOJI = {"🍎": "red apple", "🐕": "dog", "🚗": "automobile", "🍇": "grapes", "⭐": "star", "🏠": "house", "🐟": "fish"}
FILES = [style for style in STYLES if style.place != "icons.json" and style.name != "openmoji"]
ICONS = next(style for style in STYLES if style.name == "fluent-flat")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Two font packages with files by code, and Unicode's names; one picture is missing in one of them."""
    root = tmp_path / "npm"
    for number, style in enumerate(FILES):
        place = package(root, style.package) / style.place
        place.mkdir(parents=True)
        for signs in [*EMOJI, "🇩🇪", "🏿"]:
            if not (number == 0 and signs == "🐟"):
                name = "-".join(f"{ord(sign):x}" for sign in signs) + ("-fe0f" if signs == "🏠" else "")
                ending = ".webp" if style.name == "fluent-3d" else ".png"
                Image.new("RGBA", (8, 6), (40 * number, 99, 10, 255)).save(place / f"{name}{ending}")
    words = {signs: {"tts": [name.upper()], "default": ["thing", name]} for signs, name in EMOJI.items()}
    words |= {"🏿": {"tts": ["dark skin tone"]}, "🇩🇪": {"tts": ["flag"]}, "§": {"tts": ["section"], "default": []}}
    file = package(root, "cldr-annotations-full") / "annotations/en/annotations.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"annotations": {"annotations": words}}))
    return root


def package(root: Path, name: str) -> Path:
    folder = root / "node_modules" / name
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "1.2.3"}')
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "captions.json").read_text())


def test_pictures_are_split_by_style_and_by_concept(packages: Path, tmp_path: Path) -> None:
    record = build(packages, tmp_path / "world", FILES, "twemoji")
    parts = {part: rows(tmp_path / "world" / part) for part in PARTS}
    for part, held_style, held_concept in (
        (TRAIN, False, False),
        (STYLE, True, False),
        (CONCEPTS, False, True),
        (BOTH, True, True),
    ):
        assert all((row["style"] == "twemoji") == held_style for row in parts[part])
        assert all(is_held(row["concept"]) == held_concept for row in parts[part])
        assert record["pictures"][part] == {
            style: sum(row["style"] == style for row in parts[part])
            for style in dict.fromkeys(row["style"] for row in parts[part])
        }
    assert {row["concept"] for own in parts.values() for row in own} == set(EMOJI.values()), "no flag, tone or sign"
    assert sum(len(own) for own in parts.values()) == len(EMOJI) * len(FILES) - 1
    assert {s["licence"] for s in record["sources"]} == {style.licence for style in FILES} | {"Unicode-3.0"}
    assert {s["version"] for s in record["sources"]} == {"1.2.3"}


def test_vpgt_reads_every_part(packages: Path, tmp_path: Path) -> None:
    build(packages, tmp_path / "world", FILES, "twemoji")
    data = open_data([str(tmp_path / "world" / TRAIN)])
    told = [data.sample(0, n) for n in range(data.images)]
    assert {sample.captions[0].text for sample in told} <= set(EMOJI.values())
    assert all(sample.image.read()[:4] == b"\x89PNG" for sample in told)
    words = open_data([str(tmp_path / "world" / TRAIN / "words.json")])
    assert {len(words.sample(0, n).captions) for n in range(words.images)} == {2}
    assert "thing" in words.sample(0, 0).captions[1].text


def test_the_same_packages_give_the_same_world(packages: Path, tmp_path: Path) -> None:
    first = build(packages, tmp_path / "a", FILES, "twemoji")
    assert build(packages, tmp_path / "b", FILES, "twemoji") == first
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_stamps_bring_their_lines(packages: Path, tmp_path: Path) -> None:
    stamps = tmp_path / "usr/share/tuxpaint/stamps/animals"
    stamps.mkdir(parents=True)
    for name, line in (("yak", "A yak.\nfr.utf8=Un yak."), ("yak_mirror", "A yak."), ("silent", "")):
        Image.new("RGB", (300, 200)).save(stamps / f"{name}.png")
        (stamps / f"{name}.txt").write_text(line)
    record = build(packages, tmp_path / "world", FILES, "twemoji", tmp_path / "usr")
    (own,) = [row for part in PARTS for row in rows(tmp_path / "world" / part) if row["style"] == "stamps"]
    assert own["caption"] == ["A yak."] and own["keywords"] == []
    (file,) = (tmp_path / "world").rglob("stamp-animals-yak.png")
    assert Image.open(file).size == (128, 128)
    assert any(source.get("style") == "stamps" for source in record["sources"])


def test_icon_sets_are_found_by_code_and_by_name(packages: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    folder = package(packages, ICONS.package)
    body = '<circle cx="8" cy="8" r="7" fill="#ff0000"/>'
    icons = {"apple": {"body": body}, "dog": {"body": body}}
    (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
    (folder / "chars.json").write_text('{"1f34e": "apple"}')
    build(packages, tmp_path / "world", [*FILES, ICONS], "twemoji")
    drawn = [row for part in PARTS for row in rows(tmp_path / "world" / part) if row["style"] == ICONS.name]
    assert {row["concept"] for row in drawn} == {"red apple", "dog"}
    (file,) = (tmp_path / "world").rglob("dog-fluent-flat.png")
    picture = Image.open(file)
    assert picture.getpixel((64, 64)) == (255, 0, 0) and picture.getpixel((0, 0)) == (255, 255, 255)


def test_a_missing_package_says_how_to_get_it(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="openmoji is not in") as error:
        build(packages, tmp_path / "world", STYLES, "twemoji")
    assert "npm install" in error.value.hint
    assert not (tmp_path / "world").exists()
    with pytest.raises(DataError, match="none of"):
        build(packages, tmp_path / "world", FILES, "comic")
    (tmp_path / "world").mkdir()
    (tmp_path / "world/mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        build(packages, tmp_path / "world", FILES, "twemoji")
    with pytest.raises(DataError, match="tuxpaint/stamps"):
        build(packages, tmp_path / "other", FILES, "twemoji", tmp_path)


def test_names_and_codes() -> None:
    assert code_of("🏠") == code_of("1F3E0-FE0F") == "1f3e0"
    assert code_of("0023-FE0F-20E3") == "23-20e3"
    assert slug_of("Woman’s hat, large") == "womans-hat-large"
    assert plain("Twelve o’clock: “late”") == "twelve o'clock late"
    square = on_white(Image.new("RGBA", (300, 100), (0, 0, 0, 255)))
    assert square.size == (128, 128) and square.getpixel((5, 5)) == (255, 255, 255)
    assert square.getpixel((64, 64)) == (0, 0, 0)


ROW = {"caption": ["red apple"], "keywords": ["fruit", "food"], "concept": "red apple"}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a red apple", (True, True, True)),
        ("apples on a table", (False, True, True)),
        ("some fruits", (False, False, True)),
        ("a red car", (False, False, True)),
        ("a blue car", (False, False, False)),
        ("", (False, False, False)),
    ],
)
def test_what_a_sentence_says_right(sentence: str, expected: tuple[bool, ...]) -> None:
    assert tuple(right(sentence, ROW).values()) == expected


def test_chance_is_the_score_of_other_pictures_sentences() -> None:
    world = [{"caption": [name], "keywords": [], "concept": name} for name in ("dog", "cat", "fish", "star")]
    knowing = [row["caption"][0] for row in world]
    assert shares(knowing, world) == {"name": 1.0, "noun": 1.0, "word": 1.0}
    assert by_chance(knowing, world) == {"name": 0.0, "noun": 0.0, "word": 0.0}
    blind = ["a dog"] * 4
    assert shares(blind, world) == by_chance(blind, world)
    assert spoken("The glasses of a dog") == {"glasse", "dog"}


def test_sight_is_what_other_pictures_cost_more() -> None:
    nats = torch.tensor([[2.0, 6.0, 6.0], [7.0, 3.0, 5.0], [4.0, 4.0, 6.0]])
    seen = sight(nats, torch.tensor([2, 2, 2]))
    assert seen["loss"] == pytest.approx(11 / 6)
    assert seen["sees"] == pytest.approx((32 / 2 - 11) / 6)
    assert seen["found"] == pytest.approx(2 / 3)
    part = {**seen, "right": shares(["dog"], [ROW]), "by chance": shares(["dog"], [ROW]), "compared": 3}
    assert "+0.83 | 67% of 3" in table({"m": {STYLE: part}})


def test_the_first_projector_finds_a_linear_map() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(200, 2, 6)
    outputs[:, 1] = outputs[:, 0]
    true, shift = torch.randn(5, 6), torch.randn(5)
    said = outputs[:, 0] @ true.T + shift
    weight, bias = fit(outputs, said, ridge=1e-9)
    torch.testing.assert_close(weight, true, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(bias, shift, atol=1e-3, rtol=1e-3)

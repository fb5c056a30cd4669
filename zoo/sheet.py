"""The demo's sheet: pictures, and below each what two models say of it, with the wrong words marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vpgtrans_core.miniature.data import Item
from zoo.free_words import words, wrong

COLUMNS = 4
WIDTH = 1680
"""Twice the width of a README's column, for sharp letters."""
GAP = 28
SIDE = (WIDTH - GAP * (COLUMNS + 1)) // COLUMNS
TEXT, LABEL, LINE = 25, 19, 33
INK, GREY, RED, PAPER = (31, 35, 40), (110, 119, 129), (207, 34, 46), (255, 255, 255)
WRONG = (255, 235, 233)
"""The ground of a wrong word."""


@dataclass(frozen=True)
class Voice:
    """One model's sentences, one a picture."""

    name: str
    said: Sequence[str]


def draw_sheet(items: Sequence[Item], voices: Sequence[Voice], path: Path) -> None:
    """Write the sheet of `items` as a png, `COLUMNS` pictures a row; no room is left where nothing stands."""
    canvas = Image.new("RGB", (WIDTH, 40 + len(items) * 2 * SIDE), PAPER)
    pen = ImageDraw.Draw(canvas)
    top = GAP
    for start in range(0, len(items), COLUMNS):
        row = range(start, min(start + COLUMNS, len(items)))
        top = max(_cell(canvas, pen, items[i], voices, i, (i - start, top)) for i in row) + GAP
    canvas = canvas.crop((0, 0, WIDTH, top))
    canvas.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _cell(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, item: Item, voices: Sequence[Voice], index: int, at: tuple[int, int]
) -> int:
    """Draw one picture with its sentences; returns where it ends."""
    left, y = GAP + at[0] * (SIDE + GAP), at[1]
    canvas.paste(item.image.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, y))
    y += SIDE + 12
    for voice in voices:
        pen.text((left, y), voice.name, font=_font(LABEL), fill=GREY)
        y = _sentence(pen, voice.said[index], wrong(voice.said[index], item.scene), left, y + LABEL + 7) + 10
    return y


def _sentence(pen: ImageDraw.ImageDraw, sentence: str, marked: set[int], left: int, y: int) -> int:
    font, x = _font(TEXT), float(left)
    space = pen.textlength(" ", font=font)
    for index, word in enumerate(words(sentence) or ["(nothing)"]):
        length = pen.textlength(word, font=font)
        if x + length > left + SIDE and x > left:
            x, y = left, y + LINE
        if index in marked:
            pen.rounded_rectangle((x - 4, y, x + length + 4, y + LINE - 2), 5, fill=WRONG)
        pen.text((x, y), word, font=font, fill=RED if index in marked else INK)
        x += length + space
    return y + LINE


def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)

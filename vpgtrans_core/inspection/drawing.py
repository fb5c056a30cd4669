"""An inspection as one picture: each image beside its soft prompts, with where they look and their nearest words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if TYPE_CHECKING:
    from vpgtrans_core.inspection.inspect import Inspection, Report

TILE, GAP, LINE = 150, 14, 17
"""Sides of a tile, the space between tiles, and the height of a line of text, in pixels."""
SHOWN_WORDS = 3
COLUMNS = 8
FONT_SIZE = 13
DARKEST = 0.25
"""How much of a pixel is left where a soft prompt does not look."""


def draw(report: Report) -> Image.Image:
    """All images below one another. A tile is bright where its soft prompt looks most, relative to its other places."""
    parts = [_one(one) for one in report.images]
    picture = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    return picture


def _one(one: Inspection) -> Image.Image:
    font = ImageFont.load_default(FONT_SIZE)
    columns = min(COLUMNS, len(one.prompts))
    rows = -(-len(one.prompts) // columns)
    cell = TILE + GAP, TILE + (SHOWN_WORDS + 1) * LINE + GAP
    picture = Image.new("RGB", ((columns + 1) * cell[0] + 2 * GAP, rows * cell[1] + GAP), "white")
    pen = ImageDraw.Draw(picture)
    side = one.picture.resize((TILE, TILE), Image.Resampling.BICUBIC)
    picture.paste(side, (GAP, GAP))
    pen.text((GAP, GAP + TILE + 2), _shortened(one.image.rpartition("/")[2], pen, font), fill="black", font=font)
    for number, prompt in enumerate(one.prompts):
        x = 2 * GAP + (number % columns + 1) * cell[0]
        y = GAP + (number // columns) * cell[1]
        tile = side if one.attention is None else _lit(side, one.attention[number])
        picture.paste(tile, (x, y))
        pen.text((x, y + TILE + 2), f"{number + 1}   norm {prompt.norm:.2g}", fill="#777777", font=font)
        for line, (word, cosine) in enumerate(prompt.words[:SHOWN_WORDS]):
            text = _shortened(f"{word} {cosine:.2f}", pen, font)
            pen.text((x, y + TILE + 2 + (line + 1) * LINE), text, fill="black", font=font)
    return picture


def _lit(picture: Image.Image, looks: Tensor) -> Image.Image:
    """The picture, dark where the shares ``[H, W]`` are low."""
    low, high = float(looks.min()), float(looks.max())
    light = (looks - low) / max(high - low, 1e-12)
    mask = Image.fromarray((255 * (DARKEST + (1 - DARKEST) * light)).round().to(torch.uint8).numpy())
    mask = mask.resize(picture.size, Image.Resampling.BILINEAR)
    return Image.composite(picture, Image.new("RGB", picture.size, "black"), mask)


def _shortened(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut to the width of a tile."""
    if pen.textlength(text, font=font) <= TILE:
        return text
    while text and pen.textlength(f"{text}…", font=font) > TILE:
        text = text[:-1]
    return f"{text}…"

"""The pictured world: scenes of one or two things on a ground, and their pictures of 48 pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "blue": (40, 70, 225),
    "green": (40, 200, 60),
    "yellow": (245, 225, 40),
    "purple": (130, 40, 180),
    "orange": (250, 130, 20),
    "pink": (250, 140, 200),
    "teal": (20, 190, 190),
}
NOUNS = ("ball", "box", "ring", "star", "heart", "moon", "cross", "tree", "house", "fish", "flower", "cup")
SIZES: dict[str, int] = {"small": 12, "large": 19}
PLACES: dict[str, tuple[int, int, int]] = {
    "grass": (85, 110, 70),
    "sand": (205, 190, 150),
    "snow": (232, 236, 242),
    "night": (22, 24, 44),
    "wood": (115, 85, 65),
}
SIDE = 48
CENTRES = (10, 24, 38)
"""Pixel centres of the three rows and of the three columns."""

Combos = Literal["seen", "held", "any"]
Relation = Literal["left", "right", "above", "below"]


@dataclass(frozen=True)
class Thing:
    """One drawn thing; `row` and `col` are 0, 1 or 2."""

    colour: str
    noun: str
    size: str
    row: int
    col: int


@dataclass(frozen=True)
class Scene:
    """One or two things, unlike in colour and in noun. Two things stand in one row or in one column, ends apart."""

    things: tuple[Thing, ...]
    place: str

    @property
    def relation(self) -> Relation | None:
        """Where the first thing is, seen from the second."""
        if len(self.things) < 2:
            return None
        first, second = self.things
        if first.row == second.row:
            return "left" if first.col < second.col else "right"
        return "above" if first.row < second.row else "below"


def held_out(colour: str, noun: str) -> bool:
    """Whether this combination is kept out of vision-language training: for each noun one colour."""
    return list(COLOURS)[(3 * NOUNS.index(noun) + 1) % len(COLOURS)] == colour


def sample(rng: random.Random, combos: Combos = "any") -> Scene:
    """Sample a scene: ``"seen"`` has no held-out combination, ``"held"`` has at least one."""
    while True:
        scene = _sample(rng)
        held = any(held_out(t.colour, t.noun) for t in scene.things)
        if combos == "any" or held == (combos == "held"):
            return scene


def _sample(rng: random.Random) -> Scene:
    count = 1 if rng.random() < 0.35 else 2
    colours, nouns = rng.sample(list(COLOURS), count), rng.sample(NOUNS, count)
    cells = _cells(count, rng)
    things = tuple(
        Thing(c, n, rng.choice(list(SIZES)), *cell) for c, n, cell in zip(colours, nouns, cells, strict=True)
    )
    return Scene(things, rng.choice(list(PLACES)))


def _cells(count: int, rng: random.Random) -> list[tuple[int, int]]:
    if count == 1:
        return [(rng.randrange(3), rng.randrange(3))]
    lane, ends = rng.randrange(3), rng.sample((0, 2), 2)
    return [(lane, end) for end in ends] if rng.random() < 0.5 else [(end, lane) for end in ends]


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw the scene, 48 x 48 RGB. `rng` moves things by a pixel, varies their colour a little and makes the grain."""
    grain = np.random.default_rng(rng.getrandbits(32)).integers(-14, 15, (SIDE, SIDE, 3))
    ground = np.clip(np.array(PLACES[scene.place]) + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(ground)
    for thing in scene.things:
        _paste(image, thing, rng)
    return image


def _paste(image: Image.Image, thing: Thing, rng: random.Random) -> None:
    side = SIZES[thing.size]
    colour = tuple(max(0, min(255, c + rng.randint(-15, 15))) for c in COLOURS[thing.colour])
    corner = (CENTRES[thing.col] - side // 2 + rng.randint(-1, 1), CENTRES[thing.row] - side // 2 + rng.randint(-1, 1))
    outline, fill = _masks(thing.noun, side)
    image.paste(tuple(c // 3 for c in colour), corner, outline)
    image.paste(colour, corner, fill)


FINE = 8
"""Shapes are drawn this many times larger and shrunk, for smooth edges."""


@cache
def _masks(noun: str, side: int) -> tuple[Image.Image, Image.Image]:
    """The shape's outer mask (its dark rim shows) and its inner mask, ``side`` pixels wide."""
    outer = Image.new("L", (side * FINE, side * FINE))
    _SHAPES[noun](ImageDraw.Draw(outer), side * FINE)
    inner = outer.resize((round(side * FINE * 0.86),) * 2)
    centred = Image.new("L", outer.size)
    centred.paste(inner, ((outer.width - inner.width) // 2,) * 2)
    small = (side, side)
    return outer.resize(small, Image.Resampling.BOX), centred.resize(small, Image.Resampling.BOX)


def _polygon(*points: tuple[float, float]) -> Callable[[ImageDraw.ImageDraw, int], None]:
    """A shape from corners given in units of its side."""
    return lambda pen, s: pen.polygon([(x * s, y * s) for x, y in points], fill=255)


def _ring(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, s - 1, s - 1), fill=255)
    pen.ellipse((0.3 * s, 0.3 * s, 0.7 * s, 0.7 * s), fill=0)


def _moon(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, s - 1, s - 1), fill=255)
    pen.ellipse((0.4 * s, -0.05 * s, 1.25 * s, 0.85 * s), fill=0)


def _heart(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0, 0.54 * s, 0.54 * s), fill=255)
    pen.ellipse((0.46 * s, 0, s, 0.54 * s), fill=255)
    pen.polygon([(0.04 * s, 0.4 * s), (0.96 * s, 0.4 * s), (0.5 * s, s)], fill=255)


def _fish(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0, 0.22 * s, 0.72 * s, 0.78 * s), fill=255)
    pen.polygon([(0.55 * s, 0.5 * s), (s, 0.1 * s), (s, 0.9 * s)], fill=255)


def _flower(pen: ImageDraw.ImageDraw, s: int) -> None:
    for k in range(4):
        x, y = 0.5 + 0.27 * math.cos(math.pi * k / 2 + 0.78), 0.5 + 0.27 * math.sin(math.pi * k / 2 + 0.78)
        pen.ellipse(((x - 0.24) * s, (y - 0.24) * s, (x + 0.24) * s, (y + 0.24) * s), fill=255)
    pen.ellipse((0.36 * s, 0.36 * s, 0.64 * s, 0.64 * s), fill=0)


def _cup(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.ellipse((0.5 * s, 0.2 * s, s - 1, 0.7 * s), fill=255)
    pen.ellipse((0.64 * s, 0.33 * s, 0.87 * s, 0.57 * s), fill=0)
    pen.polygon([(0, 0.05 * s), (0.74 * s, 0.05 * s), (0.62 * s, s), (0.12 * s, s)], fill=255)


def _tree(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.polygon([(0.5 * s, 0), (0.95 * s, 0.7 * s), (0.05 * s, 0.7 * s)], fill=255)
    pen.rectangle((0.4 * s, 0.7 * s, 0.6 * s, s), fill=255)


def _star_points() -> list[tuple[float, float]]:
    radii = (0.54, 0.2)
    angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    return [(0.5 + radii[k % 2] * math.cos(a), 0.52 + radii[k % 2] * math.sin(a)) for k, a in enumerate(angles)]


_SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "ball": lambda pen, s: pen.ellipse((0, 0, s - 1, s - 1), fill=255),
    "box": lambda pen, s: pen.rectangle((0.06 * s, 0.06 * s, 0.94 * s, 0.94 * s), fill=255),
    "ring": _ring,
    "star": _polygon(*_star_points()),
    "heart": _heart,
    "moon": _moon,
    "cross": _polygon(
        (0.34, 0),
        (0.66, 0),
        (0.66, 0.34),
        (1, 0.34),
        (1, 0.66),
        (0.66, 0.66),
        (0.66, 1),
        (0.34, 1),
        (0.34, 0.66),
        (0, 0.66),
        (0, 0.34),
        (0.34, 0.34),
    ),
    "tree": _tree,
    "house": _polygon((0.5, 0), (1, 0.45), (0.86, 0.45), (0.86, 1), (0.14, 1), (0.14, 0.45), (0, 0.45)),
    "fish": _fish,
    "flower": _flower,
    "cup": _cup,
}

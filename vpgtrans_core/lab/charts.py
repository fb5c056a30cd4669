"""Line charts as small SVG: one line an arm, the mean of its seeds, in a band from the lowest to the highest. No torch.

Colours are classes; the page's style gives them their values for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vpgtrans_core.lab.results import Curve, mean

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
COLOURS = 8
"""How many colours the page has: `colour` classes ``c0`` to ``c7``."""


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour's number, and a curve a seed."""

    name: str
    colour: int
    curves: Sequence[Curve]

    def middle(self) -> list[tuple[float, float, float, float]]:
        """``(x, mean, lowest, highest)`` at every x that all seeds have."""
        by_x: dict[float, list[float]] = {}
        for curve in self.curves:
            for x, y in curve:
                by_x.setdefault(round(x, 3), []).append(y)
        return [(x, mean(ys), min(ys), max(ys)) for x, ys in sorted(by_x.items()) if len(ys) == len(self.curves)]


def line_chart(series: Sequence[Series], x_title: str, title: str) -> str:
    """The chart; `title` is read out by screen readers."""
    drawn = [(s, points) for s in series if (points := s.middle())]
    if not drawn:
        return ""
    xs = [x for _, points in drawn for x, *_ in points]
    lows = [p[2] for _, points in drawn for p in points]
    highs = [p[3] for _, points in drawn for p in points]
    scale = _Scale(min(xs), max(xs), *_padded(min(lows), max(highs)))
    parts = [_grid(scale, x_title)]
    parts += [_band(scale, s, points) for s, points in drawn if len(s.curves) > 1]
    parts += [_line(scale, s, points) for s, points in drawn]
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> str:
        share = (value - self.x0) / ((self.x1 - self.x0) or 1.0)
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    def y(self, value: float) -> str:
        share = (value - self.y0) / ((self.y1 - self.y0) or 1.0)
        return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers between `low` and `high`, about `wanted` of them."""
    raw = (high - low) / wanted or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(scale: _Scale, x_title: str) -> str:
    parts = []
    for value in ticks(scale.y0, scale.y1):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{value:g}</text>')
    for value in ticks(scale.x0, scale.x1, 5):
        parts.append(f'<text x="{scale.x(value)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>')
    return "".join(parts)


def _band(scale: _Scale, series: Series, points: Sequence[tuple[float, float, float, float]]) -> str:
    over = [f"{scale.x(x)},{scale.y(high)}" for x, _, _, high in points]
    under = [f"{scale.x(x)},{scale.y(low)}" for x, _, low, _ in reversed(points)]
    return f'<polygon class="band c{series.colour % COLOURS}" points="{" ".join([*over, *under])}"/>'


def _line(scale: _Scale, series: Series, points: Sequence[tuple[float, float, float, float]]) -> str:
    colour = f"c{series.colour % COLOURS}"
    path = " ".join(f"{scale.x(x)},{scale.y(y)}" for x, y, *_ in points)
    dots = "".join(
        f'<circle class="{colour}" cx="{scale.x(x)}" cy="{scale.y(y)}" r="2.6">'
        f"<title>{escape(series.name)}: {y:.4g} at {x:g}</title></circle>"
        for x, y, *_ in points
    )
    return f'<polyline class="line {colour}" points="{path}"/>{dots}'

"""The plot of a run's losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = 10
"""matplotlib's default colours, ``C0`` to ``C9``."""


def draw_curve(
    metrics: list[dict[str, Any]], path: Path, title: str, names: Mapping[int, str] = {}, unit: str = "nats a token"
) -> None:
    """Draw training and held-out losses over the steps of all stages, one after the other, as a PNG.

    Args:
        names: of the stages, by number.
        unit: of the losses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    offset = 0
    for place, stage in enumerate(sorted({m["stage"] for m in metrics})):
        rows = [m for m in metrics if m["stage"] == stage]
        train = [(offset + m["step"], m["loss"]) for m in rows if "loss" in m]
        held = [(offset + m["step"], m["held_out_loss"]) for m in rows if "held_out_loss" in m]
        label = f"stage {stage}" + (f" ({names[stage]})" if names.get(stage) else "")
        colours = [f"C{(2 * place + n) % COLOURS}" for n in (0, 1)]
        if train:
            axes.plot(*zip(*train, strict=True), lw=1, alpha=0.6, color=colours[0], label=f"{label}, training")
        if held:
            axes.plot(*zip(*held, strict=True), "o-", ms=4, color=colours[1], label=f"{label}, held out")
        _lines(axes, rows, offset, first=place == 0)
        if offset:
            axes.axvline(offset, color="0.7", lw=0.8, ls="--")
        offset += max((m["step"] for m in rows), default=0)
    axes.set(xlabel="step", ylabel=f"loss ({unit})", title=title)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _lines(axes: Any, rows: list[dict[str, Any]], offset: int, *, first: bool) -> None:
    """The losses between which a stage's held-out loss should lie: of the LLM without pictures, and the source's."""
    end = offset + max((row["step"] for row in rows), default=0)
    for name, style, label in (("text_only_loss", ":", "without pictures"), ("source_loss", "-.", "the source's own")):
        value = next((row[name] for row in rows if name in row), None)
        if value is not None:
            axes.hlines(value, offset, end, colors="0.35", lw=1.2, ls=style, label=label if first else None)

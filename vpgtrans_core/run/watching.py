"""A few fixed pictures, and what the model says of them at each validation; a warning when it looks wrong."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.thumbnails import data_address
from vpgtrans_core.files import writing
from vpgtrans_core.run.folder import SAMPLES
from vpgtrans_core.run.self_check import FREE
from vpgtrans_core.sight.verdict import Losses, judge

if TYPE_CHECKING:
    from vpgtrans_core.run.feed import Feed
    from vpgtrans_core.run.folder import RunFolder
    from vpgtrans_core.train.stage import StagePlan

PICTURES = 4
"""Pictures that are watched: the first ones that the main process holds out."""
PATIENCE = 0.5
"""The share of a stage after which a model that has learned nothing is told so."""
SIDE = 160
"""Longest side of a picture on the page, in pixels."""
_STYLE = """
:root { color-scheme: light dark; } body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
table { border-collapse: collapse; } td, th { padding: .35rem .8rem; border-bottom: 1px solid #8884;
vertical-align: top; text-align: left; min-width: 9rem; max-width: 18rem; } th:first-child, td:first-child {
min-width: 6rem; white-space: nowrap; } img { display: block; } .caption { opacity: .7; font-weight: 400; }
"""


class Watcher:
    """Called after each validation of a stage; works in the main process alone.

    Args:
        plan: of the stage.
        feed: whose held-out images are watched.
        folder: receives what the model says, in run.json under ``watched``, and the page `SAMPLES`.
        lines: the losses to stay between.
        warn: receives each kind of warning once.
        tell: receives the texts, for loggers.
    """

    def __init__(
        self,
        plan: StagePlan,
        feed: Feed,
        folder: RunFolder,
        lines: Losses,
        warn: Callable[[str], None],
        tell: Callable[[int, list[str]], None] = lambda step, texts: None,
    ) -> None:
        self.plan = plan
        self.feed = feed
        self.folder = folder
        self.lines = lines
        self.warn = warn
        self.tell = tell
        self._first: float | None = None
        self._told: set[str] = set()

    def __call__(self, step: int, loss: float | None) -> None:
        if not self.folder.writes:
            self.feed.model.llm.join_generation()
            return
        self._first = loss if self._first is None else self._first
        pictures = self._say(step)
        if PATIENCE * self.plan.steps <= step < self.plan.steps:  # at the end the verdict speaks
            self._warn(step, loss, pictures)

    def _say(self, step: int) -> list[dict[str, Any]]:
        """Generate, and keep the texts; returns the watched pictures with the newest one as ``now``."""
        batch = next(iter(self.feed.held_out()), None)
        if batch is None:
            self.feed.model.llm.join_generation()
            return []
        batch = batch.part(0, PICTURES)
        model = self.feed.model
        texts = model.generate(batch.visual.to(model.device), batch.kind, self.feed.prompts(batch), FREE, batch.images)
        views = [batch.part(n, n + 1).views[0] for n in range(len(batch.texts))]
        samples = [self.feed.all.held_out.sample(view[0], view[1]) for view in views]
        before = {one["image"]: one["said"] for one in self.folder.record.get("watched", {}).get("examples", [])}
        place = f"stage {self.plan.number}, step {step}"
        pictures = [
            {"image": s.key, "caption": s.captions[0].text, "said": {**before.get(s.key, {}), place: text}}
            for s, text in zip(samples, texts, strict=True)
        ]
        self.folder.write_record(watched={"examples": pictures})
        content = page(pictures, [_address(sample.image) for sample in samples])
        with writing("the page of samples", self.folder.path, len(content), run=self.folder.path):
            (self.folder.path / SAMPLES).write_text(content, encoding="utf-8")
        self.tell(step, texts)
        return [{**one, "now": text} for one, text in zip(pictures, texts, strict=True)]

    def _warn(self, step: int, loss: float | None, pictures: list[dict[str, Any]]) -> None:
        losses = Losses(first=self._first, loss=loss, text_only=self.lines.text_only, source=self.lines.source)
        said, captions = [one["now"] for one in pictures], [one["caption"] for one in pictures]
        for problem in judge(losses, said, captions, steps=step).problems:
            if problem.kind not in self._told:
                self._told.add(problem.kind)
                self.warn(f"stage {self.plan.number} step {step}: the model looks wrong: {problem.text}")


def page(pictures: list[dict[str, Any]], addresses: list[str]) -> str:
    """The page: a column a picture, a line a validation."""
    heads = "".join(
        f'<th><img alt="" src="{address}"><span class="caption">{html.escape(one["caption"])}</span></th>'
        for one, address in zip(pictures, addresses, strict=True)
    )
    places = list(dict.fromkeys(place for one in pictures for place in one["said"]))
    rows = "".join(
        f"<tr><td>{place}</td>"
        + "".join(f"<td>{html.escape(one['said'].get(place, '')) or '<em>nothing</em>'}</td>" for one in pictures)
        + "</tr>"
        for place in places
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What the model says</title><style>{_STYLE}</style></head><body><h1>What the model says</h1>"
        f"<table><tr><th></th>{heads}</tr>{rows}</table></body></html>\n"
    )


def _address(image: Any) -> str:
    try:
        return data_address(image, SIDE)
    except BadSampleError:
        return ""

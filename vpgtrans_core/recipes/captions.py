"""The setting ``captions``: who describes images that have no captions, and how often."""

from __future__ import annotations

import re

EACH = 5
"""Captions sampled of an image where no number is given; the usual number of human ones, too."""
_FORM = re.compile(r"source(?::([1-9][0-9]{0,2}))?")


def captions_each(captions: str | None) -> int:
    """How many captions the source writes of an image that has none; 0 where it writes none."""
    form = _FORM.fullmatch(captions or "")
    return int(form[1] or EACH) if form else 0


def caption_problems(captions: str | None, share: float | None) -> list[str]:
    """What is wrong with the setting, and with the share of the images that it is about."""
    problems = []
    if captions is not None and not captions_each(captions):
        problems.append(f"captions: must be source or source:N with N from 1 to 999, not {captions!r}")
    if captions is None and share is not None:
        problems.append("caption_share: there are no captions by the source; it needs --captions source")
    return problems

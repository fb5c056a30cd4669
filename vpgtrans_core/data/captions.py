"""How a caption is cleaned before an LLM learns to say it."""

from __future__ import annotations

import re

_MARKS = re.compile(r'[.!"()*#:;~]')


def clean(text: str) -> str:
    """Clean one caption as the paper's code does: lower case, ``.!"()*#:;~`` to spaces, runs of spaces joined.

    Line breaks and tabs become spaces too, because decoder LLMs end a caption with a line break. The paper's limit of
    a caption's length is in tokens and applied by the `TextEncoder`.
    """
    return " ".join(_MARKS.sub(" ", text.lower()).split())


def keep(text: str) -> str:
    """Keep a caption as it is written, without the white space around it."""
    return text.strip()

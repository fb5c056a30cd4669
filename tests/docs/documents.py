"""Markdown files of the repository, and the blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document, in order."""
    return [text for kind, text in _BLOCK.findall(read(name)) if kind == language]


def shell_lines(name: str) -> list[str]:
    """The commands in a document's shell blocks, comments taken off."""
    lines = [line.partition(" #")[0].strip() for block in blocks(name, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]

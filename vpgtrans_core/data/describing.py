"""Which questions ask for nothing but a description of the image: their answers are captions."""

from __future__ import annotations

import re

_DESCRIBING = """
    a about account add all analysis analyze and are as aspects at based be break brief briefly by can caption
    characterize clarify clear compact composition comprehensive concise concisely content contents could create deep
    depicted depiction describe describing description detail detailed details displayed do down elaborate elements
    examine exhaustive explain explanation explore extensive features following for generate give given gives happening
    i illustrate image in in-depth informative interpretation is it its it's key lucid me narrate narrative of offer on
    overview paragraph photo photo's photograph picture picture's play please portray present presented provide provided
    relay render representation representing rich scene see sentence share short show showing shown shows sketch step
    style subsequent succinct summarize summary take taking tell terse that the there think this thorough through to
    upon us view visual walk what what's with within write you your
"""
_GENERIC = frozenset(_DESCRIBING.split())
"""Words that ask for a description and name nothing in the image."""


def is_generic(prompt: str) -> bool:
    """Whether a question asks for nothing but a description of the image."""
    return all(word in _GENERIC for word in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prompt.lower().replace("’", "'")))

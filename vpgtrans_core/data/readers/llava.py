"""LLaVA's format: ``[{"image", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}]``, and the
same as ``[{"images": [...], "messages": [{"role": "user", "content"}, {"role": "assistant", "content"}]}]``.

Every answer becomes a caption. The human turn before it becomes the caption's prompt, without the ``<image>`` mark,
unless it is a generic wish for a description ("Provide a brief description of the given image."): then the caption
stands alone, as the paper trains captions. Turns of one conversation do not see each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.listing import Listing, ListingBuilder
from vpgtrans_core.data.readers.fields import Reading, keys_of
from vpgtrans_core.data.readers.json_rows import Row, gathered, listing_of
from vpgtrans_core.data.readers.turns import ANSWERING, ASKING, picture_of, speaker_and_text, turns_of
from vpgtrans_core.data.sample import Caption

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
"""Words that ask for a description and name nothing in the picture."""


def fits(data: Any, reading: Reading) -> bool:
    """Whether parsed json has this format's shape."""
    rows = data[:100] if isinstance(data, list) and reading.caption_key is None else []
    return any(turns_of(row) is not None for row in rows)


def read(data: Any, file: Path, root: Path | None, reading: Reading) -> Listing:
    """Make the listing; conversations about the same image are gathered, those without image only counted."""
    builder = ListingBuilder(str(file), "llava", reading.clean)
    return listing_of(gathered(_rows(data, builder), builder), builder, file, root)


def is_generic(prompt: str) -> bool:
    """Whether a human turn asks for nothing but a description of the picture."""
    return all(word in _GENERIC for word in re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prompt.lower().replace("’", "'")))


def _rows(data: Any, builder: ListingBuilder) -> Iterator[Row]:
    for number, row in enumerate(data):
        key, turns = f"row {number + 1}", turns_of(row)
        try:
            name = picture_of(row)
        except BadSampleError as error:
            builder.skip(key, error.kind, error.detail)
            continue
        if turns is None:
            builder.skip(key, bad.BAD_ROW, "no conversations and no messages")
            builder.meet(keys_of(row))
        elif name is None:
            builder.imageless += 1
        elif captions := list(captions_of(turns)):
            yield Row(name, name, captions)
        else:
            builder.skip(key, bad.MISSING_TEXT, f"{name} has no answer")


def captions_of(turns: list[Any]) -> Iterator[Any]:
    """Each answer with the question before it."""
    prompt = ""
    for turn in turns:
        speaker, value = speaker_and_text(turn)
        if speaker in ASKING:
            prompt = str(value).replace("<image>", "").strip()
        elif speaker in ANSWERING:
            yield Caption(value, "" if is_generic(prompt) else prompt)

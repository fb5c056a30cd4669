"""The caption in a small text that lies beside a picture, on disk or in a shard."""

from __future__ import annotations

import json
from typing import Any

from vpgtrans_core.data import bad
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.readers.fields import CAPTIONS, Reading, as_list, keys_of, text_field

TEXTS = ("txt", "json")
MAX_TEXT_BYTES = 1 << 20


def caption_of(data: bytes, ending: str, reading: Reading) -> tuple[list[Any], list[str]]:
    """The captions of a ``txt`` (its whole text) or a ``json`` (its caption's key), and the keys of a json that has
    none. With a caption key of the user's the text alone says nothing.

    Raises:
        BadSampleError: it is not text, or not json.
    """
    try:
        text = data.decode("utf-8-sig")
        if ending == "txt":
            return ([] if reading.caption_key else [text]), []
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(bad.BAD_TEXT, str(error)[:100]) from error
    found = as_list(text_field(row, *reading.captions(*CAPTIONS)))
    return found, [] if found else list(keys_of(row))

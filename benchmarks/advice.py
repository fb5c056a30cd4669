"""What a benchmark's command prints where the toolkit refuses what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vpgtrans_core.errors import VpgtError


@contextmanager
def advising() -> Iterator[None]:
    """End with the toolkit's message and advice, instead of a traceback above them."""
    try:
        yield
    except VpgtError as error:
        raise SystemExit(str(error)) from error

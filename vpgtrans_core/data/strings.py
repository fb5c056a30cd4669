"""Millions of short texts in two flat buffers instead of millions of objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class Strings:
    """An immutable sequence of texts: one block of UTF-8 bytes and where each text ends.

    Forked workers share the two buffers; they are pickled as they are.
    """

    def __init__(self, data: bytes, ends: np.ndarray) -> None:
        self.data = data
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        builder = StringsBuilder()
        for text in texts:
            builder.append(text)
        return builder.build()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.ends):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.data[start : int(self.ends[index])].decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class StringsBuilder:
    """Collects texts for a `Strings`."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, text: str) -> None:
        self._data += text.encode(errors="surrogatepass")
        self._ends.append(len(self._data))

    def build(self) -> Strings:
        return Strings(bytes(self._data), np.array(self._ends, dtype=np.int64))

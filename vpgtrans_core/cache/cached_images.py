"""The cache of one data set: replaces decoding where entries exist, and keeps new ones."""

from __future__ import annotations

from collections.abc import Sequence

from vpgtrans_core.cache.key import Kind
from vpgtrans_core.cache.names import EntryNames
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.sample import View
from vpgtrans_core.data.tiles import Visual


class CachedImages:
    """The loader's `FeatureSource` of one data set, and the step's `keep`. Picklable: it travels to data workers.

    Attributes:
        kind: what `get` returns.
    """

    def __init__(self, cache: FeatureCache, names: EntryNames) -> None:
        self.cache = cache
        self.names = names
        self.kind: Kind = cache.key.kind

    def get(self, source: int, row: int, view: int, image: int = 0) -> Visual | None:
        """What is kept of a view of a sample's `image`-th image, or None."""
        name = self.names.name(source, row, view, image)
        return None if name is None else self.cache.get(name)

    def keep(self, views: Sequence[View], values: Visual, kind: str) -> Visual:
        """Keep what was computed of these views ``[n, ...]``; return it with the earlier value where there was one."""
        if kind != self.kind:
            return values
        names = [self.names.name(*view) for view in views]
        if any(name is None for name in names):  # an image that has vanished since it was read
            return values
        return self.cache.add([name for name in names if name is not None], values)

"""From settings to open caches: whether a run keeps what its VPG computes, and where."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from vpgtrans_core.cache.budget import CachePlan, plan_cache
from vpgtrans_core.cache.key import CacheKey, Kind
from vpgtrans_core.cache.store import KEY, FeatureCache
from vpgtrans_core.files import cache_root
from vpgtrans_core.settings import Settings
from vpgtrans_core.vpg.adapter import VPG

log = logging.getLogger(__name__)


def wants_cache(settings: Settings) -> bool:
    """By default a run caches where views are fixed: without augmentation, or with a number of views."""
    if settings.cache_features is not None:
        return settings.cache_features
    return not settings.augment or settings.views > 1


class Caches:
    """The caches that a run has opened; each is checked once.

    Attributes:
        plans: what each kind would take, by kind.
        say: is told of each plan before anything is written.
    """

    def __init__(self) -> None:
        self.say: Callable[[str], None] = log.info
        self.plans: dict[str, CachePlan] = {}
        self._open: dict[str, FeatureCache] = {}

    def open(
        self, vpg: VPG, kind: Kind, dtype: torch.dtype, settings: Settings, *, images: int, training: bool = True
    ) -> FeatureCache | None:
        """The cache of what `vpg` computes, or None where it is not wanted, too large, or cannot be written.

        Args:
            images: images that the run sees; what they take is planned before anything is written, see `plans`.
            training: as in `CacheKey.of`.
        """
        if not wants_cache(settings):
            return None
        key, root = CacheKey.of(vpg, kind, dtype, training=training), cache_root(settings.cache)
        if key.folder in self._open:
            return self._open[key.folder]
        views = settings.views + 1 if settings.augment else 1  # held-out images and the start see the plain one
        self.plans[kind] = plan = plan_cache(root, key, images, views, settings.cache_gb)
        self.say(str(plan))
        if plan.refusal:
            return None
        try:
            self._open[key.folder] = FeatureCache.open(root, key)
        except OSError as error:
            log.warning("no cache in %s: %s", root, error)
            return None
        return self._open[key.folder]

    def existing(self, vpg: VPG, dtype: torch.dtype, settings: Settings) -> FeatureCache | None:
        """The features that other runs have kept, to read only; None where there are none or no cache is wanted."""
        root, key = cache_root(settings.cache), CacheKey.of(vpg, "features", dtype)
        if not wants_cache(settings) or not (root / key.folder / KEY).is_file():
            return None
        try:
            cache = FeatureCache.open(root, key)
        except OSError as error:
            log.warning("no cache in %s: %s", root, error)
            return None
        cache.writes = False
        return cache

    def flush(self) -> None:
        """Write the pending entries."""
        for cache in self._open.values():
            cache.flush()

"""What the VPG makes of a task's images: computed once, then taken from the feature cache.

The cache knows an image by its bytes and a VPG by its weights. So two questions about one image, another task with the
same images, another model with the same VPG, and a training that has kept the image share one computation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch

from vpgtrans_core.cache.key import Kind
from vpgtrans_core.cache.names import plain_name
from vpgtrans_core.cache.opening import Caches
from vpgtrans_core.cache.store import FeatureCache
from vpgtrans_core.data.bad import BadSampleError
from vpgtrans_core.data.images import normalize, open_image, pixels
from vpgtrans_core.data.sample import ImageRef
from vpgtrans_core.data.tiles import Visual, changed, stacked
from vpgtrans_core.errors import DataError
from vpgtrans_core.settings import Settings
from vpgtrans_core.vlm.model import VLModel

READERS = 8
"""Threads that read and decode images."""


class ImageEncoder:
    """Encodes images with a model's VPG, always in the same batches.

    Args:
        model: whose VPG encodes.
        batch: images encoded at once.
        outputs, features: the caches of what the VPG and its frozen part compute; None for none.

    Attributes:
        computed: how many images were computed from their pixels.
    """

    def __init__(
        self,
        model: VLModel,
        batch: int,
        *,
        outputs: FeatureCache | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self.outputs = outputs
        self.features = features
        self.computed = 0

    @torch.no_grad()
    def encode(self, images: Sequence[ImageRef]) -> dict[str, Visual]:
        """The VPG's outputs ``[Q, D]``, or those of its tiles, by the images' names.

        Raises:
            DataError: an image cannot be read.
        """
        encoded: dict[str, Visual] = {}
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
            for start in range(0, len(images), self.batch):
                several = images[start : start + self.batch]
                encoded |= zip((image.name for image in several), self._encode(several, pool), strict=True)
        return encoded

    def _encode(self, images: Sequence[ImageRef], pool: ThreadPoolExecutor) -> Sequence[Visual]:
        """The outputs of one batch, image by image."""
        cached = self.outputs is not None or self.features is not None
        names = list(pool.map(plain_name, images)) if cached else [None] * len(images)

        def from_pixels(numbers: Sequence[int]) -> Visual:
            self.computed += len(numbers)
            shown = stacked(list(pool.map(self._pixels, [images[number] for number in numbers])))
            vpg = self.model.vpg
            return changed(shown.to(self.model.device), lambda px: vpg.features(normalize(px, vpg.preprocessing)))

        def from_features(numbers: Sequence[int]) -> Visual:
            features = _kept(self.features, names, numbers, from_pixels)
            return changed(stacked([one.to(self.model.device) for one in features]), self.model.vpg.prompts)

        encoded = _kept(self.outputs, names, range(len(images)), from_features)
        return [one.to(self.model.device) for one in encoded]

    def _pixels(self, image: ImageRef) -> Visual:
        try:
            return pixels(open_image(image), self.model.vpg.preprocessing)
        except BadSampleError as error:
            detail = f" ({error.detail})" if error.detail else ""
            raise DataError(f"the image {image.name} cannot be used: {error.kind}{detail}", "replace it") from error


def _kept(
    cache: FeatureCache | None,
    names: Sequence[bytes | None],
    numbers: Sequence[int],
    compute: Callable[[Sequence[int]], Visual],
) -> Sequence[Visual]:
    """A value for each of the images `numbers`: the cache's, or else computed, those together, and kept."""
    if cache is None:
        return list(compute(numbers))
    values = {number: None if (name := names[number]) is None else cache.get(name) for number in numbers}
    if missing := [number for number, value in values.items() if value is None]:
        computed = compute(missing)
        named = [name for number in missing if (name := names[number]) is not None]
        if len(named) == len(missing):  # else a file has appeared since its name was asked for
            computed = cache.add(named, computed)
        values |= zip(missing, computed, strict=True)
    return [value for value in values.values() if value is not None]


@contextmanager
def image_encoder(
    model: VLModel,
    batch: int,
    dtype: torch.dtype,
    settings: Settings,
    *,
    images: int,
    keep: Kind = "outputs",
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[ImageEncoder]:
    """An encoder with the cache that `settings` name. What it has computed is on disk at the end, an error's too.

    Args:
        dtype: the precision of the VPG's frozen part.
        images: how many are encoded; where they would take too much disk nothing is kept.
        keep: ``features`` for a model whose VPG is trained on before it is evaluated again. Otherwise features are
            only read, where a training has kept them.
        say: is told what the cache takes.
    """
    caches = Caches()
    caches.say = say
    wanted = replace(settings, cache_features=settings.cache_features is not False, augment=False)
    kept = caches.open(model.vpg, keep, dtype, wanted, images=images, training=False)
    if keep == "features":
        encoder = ImageEncoder(model, batch, features=kept)
    else:
        encoder = ImageEncoder(model, batch, outputs=kept, features=caches.existing(model.vpg, dtype, wanted))
    try:
        yield encoder
    finally:
        caches.flush()

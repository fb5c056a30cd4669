"""The measurements on the model that initialise the projector before training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import torch

from vpgtrans_core.data.data import Data
from vpgtrans_core.start.projector import Linear, unity, without_bias
from vpgtrans_core.train.step import Batch, Stepper
from vpgtrans_core.vlm.assemble import fill_projector
from vpgtrans_core.vlm.model import VLModel

START_IMAGES = 1024
"""Training images whose soft prompts initialise the projector."""
JUDGED_IMAGES = 64
"""About how many of them the loss is computed on that chooses the spread."""


class StartImages(Protocol):
    """The training images that the projector's start looks at; a run's feed."""

    data: Data

    def some_batches(self, images: int) -> Iterator[Batch]:
        """The first `images` training images."""
        ...

    def frozen(self, batch: Batch) -> Batch:
        """The same batch with the VPG's outputs."""
        ...


class StartProbe:
    """Measures the model before training: VPG outputs of some images, and the loss with a given projector."""

    def __init__(self, model: VLModel, feed: StartImages, stepper: Stepper) -> None:
        self.model = model
        self.feed = feed
        self.stepper = stepper
        self._batches: list[Batch] = []

    def outputs(self) -> torch.Tensor:
        """The VPG's outputs ``[n, Q, D]`` of `START_IMAGES` training images; of pictures in tiles, those of the tile
        that shows all."""
        return torch.cat([self.model.whole_pictures(batch.visual) for batch in self._computed()]).float()

    def captions(self) -> list[list[str]]:
        """The captions of the same images."""
        views = [view for batch in self._computed() for view in batch.views]
        return [[c.text for c in self.feed.data.sample(source, row).captions] for source, row, *_ in views]

    def loss(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """The LLM's mean loss on the first of those images with this projector."""
        fill_projector(self.model.projector, *self.held((weight, bias)))
        sums = [self.stepper.loss_sum(batch) for batch in self._judged()]
        mean = sum(s for s, _ in sums) / max(1, sum(n for _, n in sums))
        shards = self.stepper.shards  # where all go through the LLM together, all must draw the same conclusion
        return mean if shards is None else shards.lockstep.of_main(mean)

    def held(self, projector: Linear) -> Linear:
        """A projector as the model can hold it: where it has no bias, the bias is put into the weight."""
        return projector if self.model.projector.bias is not None else without_bias(projector, self._unity)

    @cached_property
    def _unity(self) -> torch.Tensor:
        return unity(self.outputs().cpu().flatten(0, 1))

    def _judged(self) -> list[Batch]:
        images = itertools.accumulate((len(batch.texts) for batch in self._computed()), initial=0)
        return [batch for before, batch in zip(images, self._computed(), strict=False) if before < JUDGED_IMAGES]

    def _computed(self) -> list[Batch]:
        if not self._batches:
            self._batches = [self.feed.frozen(batch) for batch in self.feed.some_batches(START_IMAGES)]
        return self._batches

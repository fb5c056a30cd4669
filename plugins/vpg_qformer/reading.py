"""Which tensors of a folder are the VPG's, and where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import REFERENCES
from vpgtrans_core.vpg.whole import referred_folder
from vpgtrans_core.weights import Weights, check_shapes, read_json, sha256_tensors

VISION = "vision_model."
LAST_NORM = "vision_model.post_layernorm."
TRAINED = ("query_tokens", "qformer.", LAST_NORM)
PREFIXES = (VISION, "query_tokens", "qformer.")
PROJECTOR = "language_projection."

TEXT_BRANCH = re.compile(r"qformer\.encoder\.layer\.\d+\.(intermediate|output)\.")
"""The Q-Former's feed-forward layers for text, in checkpoints of BLIP-2's pre-training: no image passes through."""


def read_vpg(folder: str | Path, vpg: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """The VPG's tensors of a folder of either format, and nothing else, checked by shape before they are read.

    Without `frozen` the ViT's are checked all the same, but not read."""
    weights = Weights(folder)
    found = {name: weights.shape(name) for name in weights if is_vpg(name)}
    referred = {} if any(is_frozen(name) for name in found) else _referred_vit(folder)
    found |= {name: tuple(value.shape) for name, value in referred.items()}
    check_shapes({name: tuple(value.shape) for name, value in vpg.state_dict().items()}, found, folder)
    wanted = [name for name in found if frozen or not is_frozen(name)]
    return {name: referred[name] if name in referred else weights.read(name) for name in wanted}


def read_frozen(folder: str | Path) -> dict[str, Tensor]:
    """The ViT without its last norm, from a folder of either format, following its references."""
    weights = Weights(folder)
    return {name: weights.read(name) for name in weights if is_frozen(name)} or _referred_vit(folder)


def is_vpg(name: str) -> bool:
    """Whether a tensor of a VL-LLM's folder belongs to its VPG."""
    return name.startswith(PREFIXES) and not TEXT_BRANCH.match(name)


def is_frozen(name: str) -> bool:
    """Whether a tensor belongs to the part of the VPG that is never trained."""
    return name.startswith(VISION) and not name.startswith(LAST_NORM)


def _referred_vit(folder: str | Path) -> dict[str, Tensor]:
    """The frozen ViT from where references.json says that it is, if it says so; checked by SHA-256."""
    reference = read_references(folder).get("vit")
    if reference is None:
        return {}
    place = referred_folder(reference, Path(folder))
    tensors = read_frozen(place)
    if (found := sha256_tensors(tensors)) != reference.get("sha256"):
        raise ModelError(
            f"the ViT in {place} is not the one that {folder} was trained with: its SHA-256 is {found[:12]}..., "
            f"not {str(reference.get('sha256'))[:12]}...",
            f"put the right model in its place, or edit {Path(folder) / REFERENCES}",
        )
    return tensors


def read_references(folder: str | Path) -> dict[str, Any]:
    """What a folder's references say, or an empty dict when there is none."""
    path = Path(folder) / REFERENCES
    return read_json(path) if path.is_file() else {}

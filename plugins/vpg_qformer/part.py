"""The ``vpgt-vpg`` folder: VPG and projector without the LLM, and without the ViT where a reference to it will do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vpg_qformer.config import FAMILY, FORMAT, TOWER_FAMILY, TOWER_PART
from vpg_qformer.images import save_image_processor
from vpg_qformer.reading import PROJECTOR, read_frozen
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import REFERENCES
from vpgtrans_core.vpg.whole import referred_folder
from vpgtrans_core.weights import save_tensors, sha256_tensors, write_json

if TYPE_CHECKING:
    from vpg_qformer.adapter import QFormerVPG


SMALL = 64 << 20
"""A ViT of at most this many bytes is written along: a reference would save little, and may break."""


def save_part(folder: Path, vpg: QFormerVPG, projector: nn.Linear | None, references: dict[str, Any]) -> None:
    """Write ``config.json``, ``vpg.safetensors``, ``preprocessor_config.json`` and ``references.json``.

    `references` says what the rest is: ``"llm"`` (alias, id, revision, folder, hashes) and, to leave the frozen ViT
    out, ``"vit"`` with the ``"folder"`` that holds it (and an ``"id"`` for those who have it elsewhere). A small ViT is
    written along all the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    references = dict(references)
    tensors = vpg.trained_tensors()
    frozen = vpg.frozen_tensors()
    if references.get("vit") and sum(value.nbytes for value in frozen.values()) > SMALL:
        references["vit"] = _with_hash(references["vit"], folder)
    else:
        references.pop("vit", None)
        tensors |= frozen
    if projector is not None:
        tensors |= {PROJECTOR + name: value.float().cpu() for name, value in projector.state_dict().items()}
    save_tensors(folder / "vpg.safetensors", tensors)
    save_image_processor(folder, vpg.preprocessing)
    if references:
        write_json(folder / REFERENCES, references)
    kind = vpg.model_type
    family = TOWER_FAMILY if kind == TOWER_PART else FAMILY
    write_json(
        folder / "config.json", {"model_type": kind, "vpg_family": family, "format": FORMAT, **vpg.sizes.to_dict()}
    )


def _with_hash(reference: dict[str, Any], base: Path) -> dict[str, Any]:
    """The reference with an absolute folder and the SHA-256 of the ViT there."""
    if reference.get("folder"):
        reference = {**reference, "folder": str(Path(reference["folder"]).resolve())}
    tensors = read_frozen(referred_folder(reference, base))
    if not tensors:
        raise ModelError(
            f"{reference.get('folder') or reference.get('id')} holds no ViT that the output could refer to"
        )
    return {**reference, "sha256": sha256_tensors(tensors)}

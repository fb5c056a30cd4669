"""Checkpoints of the paper's code (LAVIS / VPGTrans ``.pth``) in and out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.config import Sizes
from vpg_qformer.lavis_names import (
    POSITIONS,
    PROJECTORS,
    VIT,
    detect_sizes,
    read_shapes,
    to_lavis,
    to_ours,
    why_dropped,
    with_qkv_bias,
    without_qkv_bias,
)
from vpg_qformer.reading import PROJECTOR
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import filling
from vpgtrans_core.weights import check_finite, check_shapes, fsync, load_strict
from vpgtrans_core.weights.pickles import read_pickle, tensors_in

if TYPE_CHECKING:
    from vpgtrans_core.llm.adapter import LLM


@dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        vpg: the VPG, in fp32.
        projector: the projector, or None when the files hold none.
        kind: the model type of the LLM that the projector was trained for (``opt``, ``t5``, ``llama``), by its name.
        dropped: how many tensors were left aside, by reason.
    """

    vpg: QFormerVPG
    projector: nn.Linear | None
    kind: str | None
    dropped: dict[str, int]

    def check_llm(self, llm: tuple[str, int] | None) -> None:
        """Whether an LLM of this model type and width is what the projector leads to; None for no LLM.

        Raises:
            ModelError: it is another one, or there is a projector without LLM, or an LLM without projector.
        """
        if self.projector is None and llm is not None:
            raise ModelError(
                f"the checkpoint holds no projector ({', '.join(PROJECTORS)}), so nothing ties it to an LLM",
                "leave --llm out to import the VPG alone, or give the projector's file with --projector",
            )
        if self.projector is None:
            return
        leads_to = f"the projector leads to an LLM of kind {self.kind} and width {self.projector.out_features}"
        if llm is None:
            raise ModelError(leads_to, "give that LLM with --llm")
        if llm != (self.kind, self.projector.out_features):
            raise ModelError(
                f"{leads_to}, but the given one is of type {llm[0]} and width {llm[1]}",
                "give the LLM that the checkpoint was trained with",
            )


def save_imported(
    found: Imported, out: str | Path, llm: LLM | None, llm_reference: dict[str, Any] | None = None
) -> None:
    """Write what `read_lavis` found as a folder: with an LLM the whole VL-LLM, else the VPG alone."""
    if llm is None or found.projector is None:
        found.vpg.save_part(Path(out), None, references={})
    else:
        found.vpg.save_model(Path(out), found.projector, llm, llm_reference=llm_reference or {})


def read_lavis(
    checkpoint: str | Path,
    *,
    vit: str | Path | None = None,
    shapes: str | Path | None = None,
    projector: str | Path | None = None,
    vpg: str | Path | None = None,
) -> Imported:
    """Read VPG and projector of a checkpoint of the paper's code.

    Args:
        checkpoint: the ``.pth`` with the Q-Former (and the ViT, where the file holds it).
        vit: the ViT's own file, when the checkpoint leaves it out as trained ones do.
        shapes: a json file with the sizes, where the tensors do not tell them.
        projector: a second file whose projector is taken (the paper's scripts keep stage 1's apart).
        vpg: a model folder whose VPG is taken, for a checkpoint that holds the projector alone.

    Raises:
        ModelError: listing what is missing, unexpected or of the wrong shape.
        UnsafeInput: a file that could run code or that lies about its size.
    """
    given, dropped = _tensors(checkpoint, vit, projector)
    whole = None if vpg is None else QFormerVPG.load(vpg)
    sizes = whole.sizes if whole else detect_sizes(given, read_shapes(shapes))
    given, surplus = _without_surplus_blocks(given, sizes)
    dropped += surplus
    dropped.update(why for name in given if (why := why_dropped(name)))
    kept = with_qkv_bias({name: value for name, value in given.items() if why_dropped(name) is None})
    tensors = {to_ours(name) or name: value for name, value in kept.items()}
    linear = _projector(tensors, sizes, checkpoint)
    if whole is None:
        with torch.device("meta"):
            whole = QFormerVPG(sizes)
        load_strict(whole, tensors, checkpoint, dtype=lambda name: torch.float32)
    elif tensors:
        raise ModelError(
            f"{checkpoint} holds more than a projector: {', '.join(sorted(tensors)[:3])}...",
            "import it without --vpg",
        )
    kind = next((PROJECTORS[p] for p in PROJECTORS for name in given if name.startswith(p)), None)
    return Imported(whole, linear, kind, dict(dropped))


def export_lavis(folder: str | Path, out: str | Path, *, kind: str | None, with_vit: bool = False) -> None:
    """Write the paper's ``.pth`` layout from a folder: what its trainer saves and loads, ``{"model": state_dict}``.

    Args:
        folder: a BLIP-2 folder or one of ours without the LLM.
        kind: the LLM's model type, which names the projector: ``opt``, ``t5`` or ``llama``; None for a VPG alone.
        with_vit: also write the frozen ViT, which LAVIS's trained checkpoints leave out.

    Raises:
        ModelError: the paper's code has no class for this LLM.
    """
    vpg, projector = QFormerVPG.load(folder), QFormerVPG.load_projector(folder)
    prefix = next((p for p, k in PROJECTORS.items() if k == kind), "")
    if projector is not None and not prefix:
        raise ModelError(
            f"the paper's code supports the LLMs {', '.join(PROJECTORS.values())}, not {kind!r}", "export to hf or vpg"
        )
    tensors = vpg.trained_tensors() | (vpg.frozen_tensors() if with_vit else {})
    if projector is not None:
        tensors |= {PROJECTOR + "weight": projector[0], PROJECTOR + "bias": projector[1]}
    state = without_qkv_bias({lavis: value for name, value in tensors.items() if (lavis := to_lavis(name, prefix))})
    positions = vpg.sizes.qformer.max_position_embeddings
    state[POSITIONS] = torch.arange(positions).unsqueeze(0)
    _save_pth(Path(out), {"model": {name: value.contiguous().clone() for name, value in state.items()}})


def _tensors(
    checkpoint: str | Path, vit: str | Path | None, projector: str | Path | None
) -> tuple[dict[str, Tensor], Counter[str]]:
    """The tensors of all files under LAVIS's names; the checkpoint's go before the ViT's file."""
    tensors = _read(checkpoint)
    if "cls_token" in tensors:
        raise ModelError(
            f"{checkpoint} is a ViT alone", "give it with --vit, and give the .pth with the Q-Former first"
        )
    dropped: Counter[str] = Counter()
    if vit is not None and not any(name.startswith(VIT) for name in tensors):
        raw = _read(vit)
        _refuse_clip(raw, vit)
        tensors |= {VIT + name.removeprefix(VIT): value for name, value in raw.items()}
    if projector is not None:
        second = _read(projector)
        chosen = {name: value for name, value in second.items() if name.startswith(tuple(PROJECTORS))}
        if not chosen:
            raise ModelError(f"{projector} holds no projector", f"its name is one of {', '.join(PROJECTORS)}")
        tensors = {name: value for name, value in tensors.items() if not name.startswith(tuple(PROJECTORS))} | chosen
        dropped["other tensors of the projector's file"] += len(second) - len(chosen)
    _refuse_clip({name.removeprefix(VIT): None for name in tensors if name.startswith(VIT)}, checkpoint)
    return tensors, dropped


def _read(path: str | Path) -> dict[str, Tensor]:
    tensors = tensors_in(read_pickle(path), path)
    check_finite({name: value for name, value in tensors.items() if why_dropped(name) is None}, path)
    return tensors


def _refuse_clip(raw: dict[str, Any], path: str | Path) -> None:
    if any(name.startswith(("conv1.", "transformer.resblocks.", "visual.")) for name in raw):
        raise ModelError(
            f"{path} holds a CLIP ViT-L, which transformers' BLIP-2 does not support", "use a checkpoint with EVA ViT-g"
        )


def _without_surplus_blocks(tensors: dict[str, Tensor], sizes: Sizes) -> tuple[dict[str, Tensor], Counter[str]]:
    """Leave out the ViT's blocks behind the last one that is used (EVA ViT-g's own file has one more)."""
    prefix, depth = VIT + "blocks.", sizes.vision.num_hidden_layers
    surplus = [n for n in tensors if n.startswith(prefix) and int(n.removeprefix(prefix).split(".")[0]) >= depth]
    kept = {name: value for name, value in tensors.items() if name not in set(surplus)}
    return kept, Counter({"unused last block of the ViT": len(surplus)} if surplus else {})


def _projector(tensors: dict[str, Tensor], sizes: Sizes, where: str | Path) -> nn.Linear | None:
    """Take the projector out of `tensors`, as a module."""
    found = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PROJECTOR)}
    if not found:
        return None
    weight = found.get(PROJECTOR + "weight")
    rows = weight.shape[0] if weight is not None and weight.ndim == 2 else 0
    width = sizes.qformer.hidden_size
    wanted = {PROJECTOR + "weight": (rows, width), PROJECTOR + "bias": (rows,)}
    check_shapes(wanted, {name: tuple(value.shape) for name, value in found.items()}, where)
    linear = nn.Linear(width, rows)
    with torch.no_grad():
        linear.weight.copy_(found[PROJECTOR + "weight"])
        linear.bias.copy_(found[PROJECTOR + "bias"])
    return linear


def _save_pth(path: Path, content: dict[str, Any]) -> None:
    """The one place where a pickle is written, because the paper's code reads nothing else: plain tensors by name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with filling(path, _bytes(content)):
            torch.save(content, temporary)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _bytes(content: Any) -> int:
    """Bytes of all tensors in nested mappings."""
    if isinstance(content, dict):
        return sum(map(_bytes, content.values()))
    return content.nbytes if isinstance(content, Tensor) else 0

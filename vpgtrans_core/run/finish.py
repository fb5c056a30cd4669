"""What a finished run writes: the model folder, its card and its curve, and who its source and target were."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.models.resolve import ResolvedLLM, ResolvedSource, needs_code
from vpgtrans_core.run.card import CURVE, last_part, write_model_card
from vpgtrans_core.run.curve import draw_curve
from vpgtrans_core.settings import Settings
from vpgtrans_core.weights import sha256_file

if TYPE_CHECKING:
    from vpgtrans_core.run.folder import RunFolder
    from vpgtrans_core.run.spec import RunSpec
    from vpgtrans_core.vlm.model import VLModel


def write_model(
    folder: RunFolder, model: VLModel, source: ResolvedSource, target: ResolvedLLM, settings: Settings
) -> None:
    """Write the model into `folder`, all of it before any of it is seen there."""
    staging = folder.staging()
    whole = settings.save == "model"
    if whole:
        model.vpg.save_model(staging, model.projector, model.llm, llm_reference=target.reference())
    else:
        hashes = folder.record.get("target", {}).get("sha256") or identity(target)["sha256"]
        model.vpg.save_part(staging, model.projector, references=references(source, target, hashes))
    title = f"{last_part(source.name)} to {last_part(target.name)}, {settings.method}"  # the picture is shared too
    names = {int(number): stage.get("name", "") for number, stage in folder.record.get("stages", {}).items()}
    draw_curve(folder.metrics(), staging / CURVE, title, names)
    code = model.vpg.loading_code if whole else ""
    write_model_card(staging / "README.md", folder.path.name, folder.record, loading_code=code)
    folder.publish(staging)


def check_output(spec: RunSpec) -> None:
    """Refuse at the start what could not be written at the end.

    Raises:
        ConfigError: the whole model is asked for, and the VPG's family has no folder for it, or the LLM needs code of
            its own.
    """
    if spec.settings.save != "model":
        return
    family = spec.source.vpg_family
    if not load(family.adapter).loading_code:
        raise ConfigError(
            [f"no library loads a whole VL-LLM with a VPG of the family {family.name!r}"], "give --save vpg"
        )
    if needs_code(spec.target.config):
        raise ConfigError(
            [f"{spec.target.name} runs by code in its own folder, which a VL-LLM's folder has no place for"],
            "give --save vpg, which refers to that folder",
        )


def references(source: ResolvedSource, target: ResolvedLLM, hashes: dict[str, str]) -> dict[str, Any]:
    """What a folder without the frozen parts refers to: the LLM with the SHA-256 of its weight files (`hashes`), and
    the source's folder or id for the ViT."""
    vit = {
        "folder": str(source.folder.resolve()) if source.folder else None,
        "id": source.hub_id,
        "revision": source.revision,
    }
    return {"llm": target.reference() | {"sha256": hashes}, "vit": vit, "pretrained": source.pretrained}


def identity(model: ResolvedSource | ResolvedLLM) -> dict[str, Any]:
    """Who a model is, for the record: names, revision, the hash of every weight file."""
    hashes = {}
    if model.folder is not None:
        hashes = {p.name: sha256_file(p) for p in sorted(model.folder.glob("*.safetensors"))}
    card = dataclasses.asdict(model.card) if model.card else {}
    return {
        "name": model.name,
        "origin": model.origin,
        "folder": str(model.folder) if model.folder else None,
        "hub_id": model.hub_id,
        "revision": model.revision,
        "licence": card.get("licence"),
        "model_type": model.config.get("model_type"),
        "sha256": hashes,
    }

"""Write a finished run: the model folder, its card, its loss curve, and the identities of source and target."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ConfigError, ModelError, VpgtError
from vpgtrans_core.files import ADAPTER, REFERENCES, DiskFull, write_json, writing
from vpgtrans_core.llm.lora import require_peft
from vpgtrans_core.models.resolve import needs_code
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.recipes.adapters import lora_rank
from vpgtrans_core.run.card import CURVE, last_part, write_model_card
from vpgtrans_core.run.curve import draw_curve
from vpgtrans_core.run.decoding import write_decoding
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import write_template
from vpgtrans_core.weights import sha256_file

if TYPE_CHECKING:
    from vpgtrans_core.run.folder import RunFolder
    from vpgtrans_core.run.spec import RunSpec
    from vpgtrans_core.vlm.model import VLModel


CONFIGS = ("config.json", "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "*.bin")
"""Files that, besides the weights in safetensors, decide what a model computes."""
TEXTS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
PICTURES = ("preprocessor_config.json", "processor_config.json", "references.json")
"""Those that decide how it reads texts and images, and where its parts are."""
TRY_BYTES = 4 << 20
"""Approximate size on disk of a model's settings and tokenizer."""


def write_model(
    folder: RunFolder, model: VLModel, source: ResolvedSource, target: ResolvedLLM, settings: Settings
) -> None:
    """Write the model into `folder`; it appears there only when it is complete."""
    whole = settings.save == "model"
    with writing("the finished model", folder.path, lambda: _size(model, whole), run=folder.path):
        staging = folder.staging()
        if whole:
            model.vpg.save_model(staging, model.projector, model.llm, llm_reference=target.reference())
            write_pretrained(staging, source)
        else:
            hashes = folder.record.get("target", {}).get("sha256") or identity(target)["sha256"]
            model.vpg.save_part(staging, model.projector, references=references(source, target, hashes))
            if model.lora is not None:
                model.lora.save(staging / ADAPTER, target.reference())
        if model.template is not None:
            write_template(staging, model.template)
            if whole and folder.record.get("template"):  # it has learned conversations
                model.vpg.prepare_endpoint(staging, model.llm.answer_ends(model.template.end))
        if decoding := folder.record.get("decoding"):
            write_decoding(staging, decoding)
        title = f"{last_part(source.name)} to {last_part(target.name)}, {settings.method}"  # the picture is shared too
        names = {int(number): stage.get("name", "") for number, stage in folder.record.get("stages", {}).items()}
        draw_curve(folder.metrics(), staging / CURVE, title, names)
        code = model.vpg.loading_code if whole else ""
        write_model_card(staging / "README.md", folder.path.name, folder.record, loading_code=code)
        folder.publish(staging)


def write_pretrained(folder: Path, source: ResolvedSource) -> None:
    """Say in a whole model's folder where training from scratch starts, if that is known."""
    if source.scratch_from:
        write_json(folder / REFERENCES, {"pretrained": source.scratch_from})


def check_writable(folder: RunFolder, model: VLModel, target: ResolvedLLM, settings: Settings) -> None:
    """Check before training that the whole model can be written after it.

    Raises:
        ConfigError: it cannot; the trained part can be saved alone.
    """
    if settings.save != "model" or not folder.writes:
        return
    hint = "give --save vpg, which writes the trained part and refers to the rest; it may be given with --resume, too"
    staging = folder.staging()
    try:
        with writing("a try of the finished model's settings", folder.path, TRY_BYTES, run=folder.path):
            model.vpg.check_model(staging, model.projector, model.llm, llm_reference=target.reference())
    except (DiskFull, ConfigError):
        raise
    except Exception as error:  # libraries refuse a config in as many ways as there are configs
        cause = error.message if isinstance(error, VpgtError) else f"{type(error).__name__}: {error}"
        raise ConfigError([f"the whole VL-LLM cannot be written: {cause}"], hint) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _size(model: VLModel, whole: bool) -> int:
    """The approximate bytes of a finished model: its tensors."""
    parts = [model.projector.parameters(), (p for _, p in model.vpg.trained())]
    if whole:
        parts = [model.parameters(), model.llm.model.parameters()]
    return sum(p.numel() * p.element_size() for part in parts for p in part)


def check_output(spec: RunSpec) -> None:
    """Refuse at the start a run whose model could not be written at the end.

    Raises:
        ConfigError: the whole model is to be saved, and the VPG's family has no format for it, or the LLM needs its own
            code.
    """
    if lora_rank(spec.settings.lora, spec.stages) is not None:
        require_peft()
    if spec.settings.save != "model":
        return
    family = spec.source.vpg_family
    if not load(family.adapter).loading_code:
        raise ConfigError(
            [f"no library can load a whole VL-LLM with a VPG of the family {family.name!r}"], "give --save vpg"
        )
    _check_llm(spec)
    if needs_code(spec.target.config):
        raise ConfigError(
            [f"{spec.target.name} needs the code in its own folder, which a VL-LLM's folder cannot hold"],
            "give --save vpg, which refers to that folder",
        )


def _check_llm(spec: RunSpec) -> None:
    """Ask the VPG's family whether a whole model with the target would compute what the target computes.

    Raises:
        ConfigError: it would not.
    """
    from vpgtrans_core.llm.empty import config_of

    if needs_code(spec.target.config):
        return
    if why := load(spec.source.vpg_family.adapter).why_not_whole(config_of(spec.target.config)):
        raise ConfigError(
            [f"the whole VL-LLM cannot be written with {spec.target.name}: {why}"],
            "give --save vpg, which writes the trained part and refers to the LLM; vpgt runs it as it is",
        )


def references(source: ResolvedSource, target: ResolvedLLM, hashes: dict[str, str]) -> dict[str, Any]:
    """The references of a folder without the frozen parts: the LLM with the SHA-256 of its weight files (`hashes`),
    and the source's folder or id for the ViT."""
    vit = {
        "folder": str(source.folder.resolve()) if source.folder else None,
        "id": source.hub_id,
        "revision": source.revision,
    }
    return {"llm": target.reference() | {"sha256": hashes}, "vit": vit, "pretrained": source.scratch_from}


def identity(model: ResolvedSource | ResolvedLLM) -> dict[str, Any]:
    """A model's identity for the record: names, revision, the hash of every weight file."""
    card = dataclasses.asdict(model.card) if model.card else {}
    return {
        "name": model.name,
        "origin": model.origin,
        "folder": str(model.folder) if model.folder else None,
        "hub_id": model.hub_id,
        "revision": model.revision,
        "prefix": getattr(model, "prefix", ""),
        "licence": card.get("licence"),
        "model_type": model.config.get("model_type"),
        **file_hashes(model.folder),
    }


def file_hashes(folder: Path | None) -> dict[str, dict[str, str]]:
    """SHA-256 of a model's files by name: of its weights, of what else decides what it computes, and how it reads."""
    return {
        "sha256": _hashes(folder, "*.safetensors"),
        "config_sha256": _hashes(folder, *CONFIGS),
        "reading_sha256": _hashes(folder, *TEXTS, *PICTURES),
    }


def _hashes(folder: Path | None, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files of a folder that match a pattern, by name."""
    if folder is None:
        return {}
    try:
        return {path.name: sha256_file(path) for pattern in patterns for path in sorted(folder.glob(pattern))}
    except OSError as error:
        raise ModelError(f"a file of the model in {folder} cannot be read: {error}") from error

"""`vpgt import` and `vpgt export`: from names and files on the command line to a folder that is whole."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from vpg_qformer.adapter import QFormerVPG
from vpg_qformer.config import MODEL_TYPES
from vpg_qformer.lavis import Imported, export_lavis, read_lavis, save_imported
from vpgtrans_core.errors import ConfigError, ModelError, VpgtError
from vpgtrans_core.files import REFERENCES, put_in_place
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.refusals import refuse_apart
from vpgtrans_core.models.resolve import ResolvedLLM, ResolvedSource, resolve_source, resolve_target
from vpgtrans_core.registry import Registry
from vpgtrans_core.run.card import plain_model_card, write_model_card
from vpgtrans_core.run.finish import identity
from vpgtrans_core.run.folder import RECORD as RUN
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import FILE as TEMPLATE
from vpgtrans_core.templates import usable_template, write_template
from vpgtrans_core.vlm.assemble import load_llm, projector_module
from vpgtrans_core.vpg.adapter import VPG
from vpgtrans_core.weights import Weights, read_json, sha256_file, write_json

Format = Literal["hf", "vpg", "lavis"]
RECORD = "import.json"
CHAT = {"vl-vicuna": "minigpt4"}
"""The templates of the chat models that the paper published, by the names of their files."""
FULL = ("No space left", "Disk quota", "File too large", "iostream error")
"""What the system, safetensors and torch say when a file cannot grow."""


def import_checkpoint(
    checkpoint: str,
    out: str,
    *,
    registry: Registry,
    settings: Settings,
    vit: str | None = None,
    llm: str | None = None,
    shapes: str | None = None,
    projector: str | None = None,
    vpg: str | None = None,
    template: str = "auto",
    overwrite: bool = False,
) -> Imported:
    """Import a ``.pth`` of the paper's code into the folder `out`; see `vpg_qformer.lavis.read_lavis`.

    `llm` and `vpg` are aliases, hub ids or folders. `template` is the chat template that the model was tuned in, by
    default that of a chat model which the paper published under this name, else the LLM's own. Beside the model the
    folder gets ``import.json``: the files with their SHA-256, the LLM, and what was left aside.
    """
    if vpg and Path(vpg).is_file():
        raise ModelError(f"--vpg {vpg} is a file, not a model", f"import {vpg} first, with --projector {checkpoint}")
    papers = dataclasses.replace(settings, bos="after")  # as it was trained
    resolved = resolve_target(llm, registry, papers) if llm else None
    with _whole(Path(out), overwrite) as folder:
        source = resolve_source(vpg, registry, settings).folder if vpg else None
        # What cannot be used is refused before an LLM is loaded.
        found = read_lavis(checkpoint, vit=vit, shapes=shapes, projector=projector, vpg=source)
        found.check_llm((str(resolved.config.get("model_type")), resolved.embedding_size) if resolved else None)
        model = _load_llm(resolved, settings) if resolved else None
        save_imported(found, folder, model, resolved.reference() if resolved else None)
        if model is not None:
            name = CHAT.get(Path(checkpoint).stem, "auto") if template == "auto" else template
            _record_template(folder, model, name, found.vpg if name != "auto" else None)
        files = [path for path in (checkpoint, vit, projector, shapes) if path]
        record = {
            "files": [{"name": Path(path).name, "sha256": sha256_file(path)} for path in files],
            "llm": resolved.reference() | {"sha256": identity(resolved)["sha256"]} if resolved else None,
            "left_aside": found.dropped,
        }
        write_json(folder / RECORD, record)
        _write_card(folder, Path(out).name, {"llm": record["llm"]})
    return found


def export_model(
    model: str, out: str, to: Format, *, registry: Registry, settings: Settings, with_vit: bool = False, overwrite: bool
) -> None:
    """Write a source (alias, hub id, folder or an earlier output) in another format.

    ``hf``: transformers' BLIP-2 folder with the LLM. ``vpg``: VPG and projector, with references to the LLM and, where
    it is known by id, to the ViT. ``lavis``: the paper's ``.pth``.

    Raises:
        ModelError: the source is of another VPG family, or has not what the format needs.
    """
    source = resolve_source(model, registry, settings)
    if source.folder is None or not set(source.vpg_family.model_types) & set(MODEL_TYPES):
        raise ModelError(f"{model} holds no Q-Former VPG; its plugin has to export it")
    if to != "hf" and source.llm:
        refuse_apart(model, source.llm.adapter, f"--to {to} would leave that out")
    if to == "lavis":
        _export_lavis(source, source.folder, Path(out), with_vit, overwrite)
        return
    vpg, weights = QFormerVPG.load(source.folder), QFormerVPG.load_projector(source.folder)
    projector = projector_module(*weights, torch.device("cpu")) if weights else None
    with _whole(Path(out), overwrite) as folder:
        references = _references(source, source.folder)
        if to == "vpg":
            vpg.save_part(folder, projector, references=references)
            if (source.folder / TEMPLATE).is_file():
                shutil.copyfile(source.folder / TEMPLATE, folder / TEMPLATE)
        elif source.llm is None or projector is None:
            raise ModelError(f"{model} is a VPG without an LLM, so there is no VL-LLM to write", "use --to vpg")
        else:
            _check_llm(source)
            llm = _load_llm(source.llm, settings)
            vpg.save_model(folder, projector, llm, llm_reference=source.llm.reference())
            _record_template(folder, llm, "auto", vpg if _chats(source.folder) else None, source.folder)
        _write_card(folder, Path(out).name, references, run=source.folder / RUN)


def _record_template(folder: Path, llm: LLM, name: str, chats: VPG | None, recorded: Path | None = None) -> None:
    """Write a model's chat template into its folder, if it has one; `chats` is its VPG if it has learned to chat."""
    if (template := usable_template(name, llm.tokenizer, recorded)) is None:
        return
    write_template(folder, template)
    if chats is not None:
        chats.prepare_endpoint(folder, llm.answer_ends(template.end))


def _chats(folder: Path) -> bool:
    """Whether the model in a folder has learned conversations: a run records its template then."""
    from vpg_qformer.endpoint import is_prepared  # with it comes transformers

    record = folder / RUN
    return is_prepared(folder) or (record.is_file() and bool(read_json(record).get("template")))


def _check_llm(source: ResolvedSource) -> None:
    """Whether the LLM that a VPG's folder refers to is still the one it was trained with.

    Raises:
        ModelError: its weight files have other hashes than the folder says.
    """
    recorded = (source.references.get("llm") or {}).get("sha256")
    assert source.llm is not None
    if recorded and (found := identity(source.llm)["sha256"]) != recorded:
        wrong = sorted(name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name))
        raise ModelError(
            f"{source.llm.name} is not the language model that {source.name} was trained with: "
            f"other SHA-256 of {', '.join(wrong[:4])}",
            f"put the right one in its place, or correct 'llm' in {source.folder}/{REFERENCES}",
        )


def _write_card(folder: Path, name: str, references: dict[str, Any], run: Path | None = None) -> None:
    """The model card: what the run of the exported model measured where there is its record, else what is known."""
    config = read_json(folder / "config.json")
    card = folder / "README.md"
    record = read_json(run) if run is not None and run.is_file() else {}
    if record.get("status") == "done":
        code = QFormerVPG.loading_code if config.get("architectures") else ""
        write_model_card(card, name, record, loading_code=code)
    else:
        card.write_text(plain_model_card(name, config, references), encoding="utf-8")


def _export_lavis(source: ResolvedSource, folder: Path, out: Path, with_vit: bool, overwrite: bool) -> None:
    kind = str(source.llm.config.get("model_type")) if source.llm else None
    if out.is_dir():
        out = out / "checkpoint_0.pth"
    if out.exists() and not overwrite:
        raise ConfigError([f"out: {out} exists"], "give another --out, or --overwrite")
    with _room(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        export_lavis(folder, out, kind=kind, with_vit=with_vit)


def _load_llm(llm: ResolvedLLM, settings: Settings) -> LLM:
    """The LLM on the CPU in the precision of its files, to be written as it is."""
    machine = choose_machine(dataclasses.replace(settings, device="cpu", dtype="auto", quantization="none"), "float32")
    weights = Weights(llm.folder or "")
    names = [name for name in weights if name.startswith(llm.prefix)]
    dtype = next((d for name in names if (d := weights.read(name).dtype).is_floating_point), torch.float32)
    return load_llm(llm, dataclasses.replace(machine, dtype=dtype), settings)


def _references(source: ResolvedSource, folder: Path) -> dict[str, Any]:
    """Where the LLM and the ViT of a folder are for those who have not this folder: from the record of its run when
    there is one, else as the source was found."""
    references: dict[str, Any] = {}
    record, imported = (read_json(path) if path.is_file() else {} for path in (folder / "run.json", folder / RECORD))
    if source.llm is not None:
        plain = source.llm.reference() | {"sha256": identity(source.llm)["sha256"]}
        found = _recorded(record.get("target")) or imported.get("llm") or plain
        references["llm"] = {**found, "bos": source.llm.family.bos}
    trained = _recorded(record.get("source"))
    vit = trained or {"id": source.hub_id, "revision": source.revision, "folder": str(folder)}
    if vit.get("id"):
        references["vit"] = {key: vit.get(key) for key in ("id", "revision", "folder")}
    return references


def _recorded(identity: Any) -> dict[str, Any] | None:
    """A reference made of what run.json says of a model, if it can be found again by it."""
    if not isinstance(identity, dict) or not (identity.get("hub_id") or identity.get("folder")):
        return None
    bundled = identity.get("origin") == "bundled"
    return {
        "name": identity.get("name"),
        "alias": identity.get("name") if bundled else None,
        "id": identity.get("hub_id"),
        "revision": identity.get("revision"),
        "folder": None if bundled else identity.get("folder"),
        "prefix": identity.get("prefix", ""),
        "model_type": identity.get("model_type"),
        "sha256": identity.get("sha256"),
    }


@contextmanager
def _whole(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write in that takes the place of `out` when all of it is there.

    Raises:
        ConfigError: `out` exists and may not be replaced, or cannot be written.
    """
    if out.exists() and not overwrite:
        raise ConfigError([f"out: {out} exists"], "give another --out, or --overwrite")
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise ConfigError([f"out: {out} is not a model folder and is therefore not replaced"], "give another --out")
    staging = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    except OSError as error:
        raise ConfigError([f"out: cannot write {out}: {error}"], "give an --out that is writable") from error
    try:
        with _room(out):
            yield staging
        put_in_place(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _room(out: Path) -> Iterator[None]:
    """Say in our words that a disk is full; torch and safetensors raise errors of their own for it.

    Raises:
        ConfigError: there was no room to write.
    """
    try:
        yield
    except VpgtError:
        raise
    except Exception as error:
        said = next((found for text in _said(error) for found in FULL if found in text), None)
        if said is None:
            raise
        raise ConfigError(
            [f"out: the disk has no room for {out} ({said})"], "free disk space, or give an --out on another disk"
        ) from error


def _said(error: BaseException | None) -> Iterator[str]:
    """What an error says, and the one that it came from: torch's own ends another after a failed write."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__

"""Write a model that is there in another form: the whole VL-LLM, or its VPG and projector alone."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from vpgtrans_core.cards import load
from vpgtrans_core.errors import ConfigError, ModelError, VpgtError
from vpgtrans_core.files import RECORD, REFERENCES, DiskFull, free_bytes, is_full, lacking, put_in_place, remove
from vpgtrans_core.llm.adapter import LLM
from vpgtrans_core.machine import choose_machine
from vpgtrans_core.models.refusals import refuse_apart
from vpgtrans_core.models.resolve import needs_code, resolve_source
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.registry import Registry
from vpgtrans_core.run.card import plain_model_card, write_model_card
from vpgtrans_core.run.decoding import write_decoding
from vpgtrans_core.run.finish import identity, write_pretrained
from vpgtrans_core.run.inputs import refuse_inside
from vpgtrans_core.run.lock import alone
from vpgtrans_core.run.needed import needed_plugins
from vpgtrans_core.settings import Settings
from vpgtrans_core.templates import FILE as TEMPLATE
from vpgtrans_core.templates import usable_template, write_template
from vpgtrans_core.vlm.assemble import load_llm, projector_module
from vpgtrans_core.vpg.adapter import VPG
from vpgtrans_core.weights import Weights, read_json

IMPORTED = "import.json"
"""What an import wrote beside the model that it made."""


def export_model(
    model: str,
    out: str,
    to: str,
    *,
    registry: Registry,
    settings: Settings,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Write a source (alias, hub id, folder or an earlier output) in another form.

    ``hf``: the folder that transformers loads, with the LLM. ``vpg``: VPG and projector, with references to the LLM
    and, where it is known by id, to the frozen part. Other forms are the family's own (`VPG.formats`), and so are
    `options`.

    Raises:
        ModelError: the source has not what the form needs. ConfigError: the form is not known.
    """
    source = resolve_source(model, registry, settings)
    assert source.folder is not None
    refuse_inside(Path(out), [("model", source.folder), ("its LLM", source.llm.folder if source.llm else None)])
    if to != "hf" and source.llm:
        refuse_apart(model, source.llm.adapter, f"--to {to} would leave that out")
    adapter = load(source.vpg_family.adapter)
    if to in adapter.formats:
        load(adapter.formats[to])(source, Path(out), overwrite=overwrite, **options)
        return
    if to not in ("hf", "vpg"):
        own = ", ".join(adapter.formats) or "none"
        raise ConfigError(
            [f"to: {to!r} is not a form of models of the family {source.vpg_family.name!r}"],
            f"hf or vpg; forms of its own: {own}",
        )
    vpg, weights = adapter.load(source.folder), adapter.load_projector(source.folder)
    projector = None
    if weights:
        projector = projector_module(weights[0], weights[1], torch.device("cpu"), has_bias=adapter.projector_bias)
    with whole_folder(Path(out), overwrite) as folder:
        references = _references(source, source.folder)
        if to == "vpg":
            _write_part(folder, source.folder, vpg, projector, references)
        else:
            _write_whole(folder, source, vpg, projector, settings)
            write_pretrained(folder, source)
        if decoding := _record(source.folder).get("decoding"):
            write_decoding(folder, decoding)
        llm, code = source.llm, adapter.loading_code if to == "hf" else ""
        needs = needed_plugins(registry, source.plugin, llm.plugin if llm else None, llm.family if llm else None)
        write_card(folder, Path(out).name, references, run=source.folder / RECORD, loading_code=code, needs=needs)


def _write_whole(
    folder: Path, source: ResolvedSource, vpg: VPG, projector: torch.nn.Linear | None, settings: Settings
) -> None:
    """Write the whole VL-LLM.

    Raises:
        ModelError: the source has no LLM, or the LLM may not be written; see `_check_whole`.
    """
    if source.llm is None or projector is None:
        raise ModelError(f"{source.name} is a VPG without an LLM, so there is no VL-LLM to write", "use --to vpg")
    assert source.folder is not None
    _check_whole(source, type(vpg))
    llm = stored_llm(source.llm, settings)
    vpg.save_model(folder, projector, llm, llm_reference=source.llm.reference())
    record_template(folder, llm, "auto", vpg if _chats(source.folder, type(vpg)) else None, source.folder)


def _write_part(
    folder: Path, source: Path, vpg: VPG, projector: torch.nn.Linear | None, references: dict[str, Any]
) -> None:
    vpg.save_part(folder, projector, references=references)
    if (source / TEMPLATE).is_file():
        shutil.copyfile(source / TEMPLATE, folder / TEMPLATE)


def record_template(folder: Path, llm: LLM, name: str, chats: VPG | None, recorded: Path | None = None) -> None:
    """Write a model's chat template into its folder, if it has one; `chats` is its VPG if it has learned to chat."""
    if (template := usable_template(name, llm.tokenizer, recorded)) is None:
        return
    write_template(folder, template)
    if chats is not None:
        chats.prepare_endpoint(folder, llm.answer_ends(template.end))


def _chats(folder: Path, adapter: type[VPG]) -> bool:
    """Whether the model in a folder has learned conversations: a run records its template then."""
    return adapter.is_endpoint(folder) or bool(_record(folder).get("template"))


def _record(folder: Path) -> dict[str, Any]:
    """The record of the run that a folder belongs to; empty for others."""
    record: dict[str, Any] = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return record


def _check_whole(source: ResolvedSource, adapter: type[VPG]) -> None:
    """Whether the LLM may be written, and is still the one the VPG was trained with.

    Raises:
        ModelError: the family has no such folder, its class computes another function, or the weight files have other
            hashes.
    """
    from vpgtrans_core.llm.empty import config_of

    assert source.llm is not None
    if not adapter.loading_code:
        family = source.vpg_family.name
        raise ModelError(f"no library can load a whole VL-LLM with a VPG of the family {family!r}", "use --to vpg")
    if needs_code(source.llm.config):
        raise ModelError(
            f"{source.llm.name} needs the code in its own folder, which a VL-LLM's folder cannot hold", "use --to vpg"
        )
    if why := adapter.why_not_whole(config_of(source.llm.config)):
        raise ModelError(f"the whole VL-LLM cannot be written with {source.llm.name}: {why}", "use --to vpg")
    _check_llm(source)


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


def write_card(
    folder: Path,
    name: str,
    references: dict[str, Any],
    run: Path | None = None,
    loading_code: str = "",
    needs: Sequence[Mapping[str, str]] = (),
) -> None:
    """The model card: what the run of the exported model measured where there is its record, else what is known."""
    config = read_json(folder / "config.json")
    card = folder / "README.md"
    record = read_json(run) if run is not None and run.is_file() else {}
    if record.get("status") == "done":
        write_model_card(card, name, {**record, "needs": needs}, loading_code=loading_code)
    else:
        card.write_text(plain_model_card(name, config, references, needs), encoding="utf-8")


def stored_llm(llm: ResolvedLLM, settings: Settings) -> LLM:
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
    record = _record(folder)
    imported = read_json(folder / IMPORTED) if (folder / IMPORTED).is_file() else {}
    if source.llm is not None:
        plain = source.llm.reference() | {"sha256": identity(source.llm)["sha256"]}
        known = _recorded(record.get("target")) or imported.get("llm") or plain
        references["llm"] = {**known, "bos": source.llm.family.bos}
    trained = _recorded(record.get("source"))
    vit = trained or {"id": source.hub_id, "revision": source.revision, "folder": str(folder)}
    if vit.get("id"):
        references["vit"] = {key: vit.get(key) for key in ("id", "revision", "folder")}
    if source.llm is not None and source.scratch_from:
        references["pretrained"] = source.scratch_from
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
def whole_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write in that takes the place of `out` when all of it is there.

    Raises:
        ConfigError: `out` exists and may not be replaced, cannot be written, or another process writes it. DiskFull:
            see `room`.
    """
    if out.exists() and not overwrite:
        raise ConfigError([f"out: {out} exists"], "give another --out, or --overwrite")
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise ConfigError([f"out: {out} is not a model folder and is therefore not replaced"], "give another --out")
    staging = out.with_name(f".{out.name}.part")
    with ExitStack() as held:
        try:
            held.enter_context(alone(staging))
            for leftover in staging.iterdir():
                remove(leftover)
        except OSError as error:
            raise ConfigError([f"out: cannot write {out}: {error}"], "give an --out that is writable") from error
        try:
            with room(out, staging):
                yield staging
            put_in_place(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def room(out: Path, written: Path | None = None) -> Iterator[None]:
    """Say in our words that a disk is full; torch and safetensors raise errors of their own for it.

    Args:
        written: a folder whose files are needed, too.

    Raises:
        DiskFull: there was no room to write.
    """
    free = free_bytes(out)
    try:
        yield
    except VpgtError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        there = sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) if written else 0
        raise DiskFull(
            f"the disk is full: {out} needs at least {there + lacking(error):,} bytes, and {free:,} were free",
            "make room and try again, or give an --out on another disk",
        ) from error

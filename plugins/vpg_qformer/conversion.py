"""`vpgt import`, and the form that `vpgt export` has for this family alone: the paper's checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vpg_qformer.lavis import Imported, export_lavis, read_lavis, save_imported
from vpgtrans_core.errors import ConfigError, ModelError
from vpgtrans_core.models.resolve import resolve_source, resolve_target
from vpgtrans_core.models.resolved import ResolvedSource
from vpgtrans_core.registry import Registry
from vpgtrans_core.run.export import IMPORTED, record_template, room, stored_llm, whole_folder, write_card
from vpgtrans_core.run.finish import identity
from vpgtrans_core.run.inputs import refuse_inside
from vpgtrans_core.settings import Settings
from vpgtrans_core.weights import sha256_file, write_json

CHAT = {"vl-vicuna": "minigpt4"}
"""The templates of the chat models that the paper published, by the names of their files."""


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
    read = (("checkpoint", checkpoint), ("vit", vit), ("projector", projector), ("shapes", shapes))
    refuse_inside(Path(out), [*read, ("llm", resolved.folder if resolved else None), ("vpg", vpg)])
    with whole_folder(Path(out), overwrite) as folder:
        source = resolve_source(vpg, registry, settings).folder if vpg else None
        # What cannot be used is refused before an LLM is loaded.
        found = read_lavis(checkpoint, vit=vit, shapes=shapes, projector=projector, vpg=source)
        found.check_llm((str(resolved.config.get("model_type")), resolved.embedding_size) if resolved else None)
        model = stored_llm(resolved, settings) if resolved else None
        save_imported(found, folder, model, resolved.reference() if resolved else None)
        if model is not None:
            name = CHAT.get(Path(checkpoint).stem, "auto") if template == "auto" else template
            record_template(folder, model, name, found.vpg if name != "auto" else None)
        files = [path for path in (checkpoint, vit, projector, shapes) if path]
        record = {
            "files": [{"name": Path(path).name, "sha256": sha256_file(path)} for path in files],
            "llm": resolved.reference() | {"sha256": identity(resolved)["sha256"]} if resolved else None,
            "left_aside": found.dropped,
        }
        write_json(folder / IMPORTED, record)
        write_card(folder, Path(out).name, {"llm": record["llm"]})
    return found


def export_pth(source: ResolvedSource, out: Path, *, overwrite: bool = False, with_vit: bool = False) -> None:
    """Write a source as a ``.pth`` of the paper's code; with the frozen ViT if `with_vit`.

    Raises:
        ConfigError: `out` exists and may not be replaced, or cannot be written.
    """
    assert source.folder is not None
    kind = str(source.llm.config.get("model_type")) if source.llm else None
    if out.is_dir():
        out = out / "checkpoint_0.pth"
    if out.exists() and not overwrite:
        raise ConfigError([f"out: {out} exists"], "give another --out, or --overwrite")
    with room(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        export_lavis(source.folder, out, kind=kind, with_vit=with_vit)

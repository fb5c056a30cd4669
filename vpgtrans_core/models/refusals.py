"""Which models are refused, and why. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMFamily, VPGFamily
from vpgtrans_core.errors import ModelError, UnsafeInput, did_you_mean
from vpgtrans_core.files import CONFIG, RECORD, read_json
from vpgtrans_core.models.kinds import needs_code
from vpgtrans_core.registry import Registry

ADAPTER = "adapter_config.json"
"""The config of a PEFT adapter (LoRA and the like)."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MERGE = (
    "merge it into its model and give the result: `PeftModel.from_pretrained(MODEL, ADAPTER).merge_and_unload()"
    ".save_pretrained(MERGED)` with the peft package, and save the tokenizer into MERGED too"
)


# Names


def unknown(names: Sequence[str], registry: Registry, recorded: str = "") -> ModelError:
    """The error for unknown names that are not folders. `recorded` is what a run's record says about lost plugins."""
    if not all(names):
        return ModelError("no model was given", "give --from and --to; `vpgt list-models` lists the known models")
    aliases = [alias for known in registry.llms() for alias in (known.card.alias, *known.card.also)]
    aliases += [source.card.alias for source in registry.sources()]
    lost = [recorded, *(_lost_prefix(name) for name in names), registry.lost_hint()]
    hints = [
        *lost,  # before a guess: a user who lost a plugin did not misspell a name
        *(did_you_mean(name, aliases) for name in names),
        "`vpgt list-models` lists the known models; a folder or a hub id (organisation/model) works too",
    ]
    what = f"unknown model {names[0]!r}" if len(names) == 1 else f"unknown models {', '.join(map(repr, names))}"
    return ModelError(f"{what}: not a known alias, and not a folder here", join(*hints))


def _lost_prefix(name: str) -> str:
    """For ``plugin:alias`` whose plugin is not active: `Registry.split_plugin` has taken off those that are."""
    plugin, colon, rest = name.partition(":")
    return f"the plugin {plugin!r} is not active here" if colon and rest and plugin.isidentifier() else ""


def lost_plugins(folder: Path | None, registry: Registry) -> str:
    """The plugins that a run's record in `folder` names and that are not active here; ``""`` without a record."""
    if folder is None or not (folder / RECORD).is_file():
        return ""
    try:
        recorded = read_json(folder / RECORD).get("plugins")
    except ModelError:
        return ""  # a damaged record is told by those who need it
    plugins = [p for p in recorded if isinstance(p, dict)] if isinstance(recorded, list) else []
    active = {record.name for record in registry.records if record.status == "active"}
    lost = [p for p in plugins if p.get("status") == "active" and p.get("name") not in active]
    return join(*(_how_to_get(p) for p in lost[:3]))


def _how_to_get(plugin: dict[str, Any]) -> str:
    home = str(plugin.get("distribution") or "")
    way = f"give --plugin {home}" if home.endswith(".py") else f"install {home or 'it'} {plugin.get('version') or ''}"
    return f"the run used the plugin {plugin.get('name')!r}, which is not active here: {way.strip()}"


def no_source_with(name: str, registry: Registry) -> ModelError:
    """The error for an LLM's alias as a source if no known VL-LLM uses that LLM."""
    return ModelError(
        f"{name!r} is a language model, and no known VL-LLM uses it",
        f"the known sources are {_sources(registry)}; a folder with a VL-LLM works too",
    )


# Folders


def refuse_folder(folder: Path, weights: bool) -> None:
    """Refuse a folder without a config, without weights where they are needed, or with a PEFT adapter.

    An adapter beside whole weights is refused too: where peft is installed transformers loads it unasked, and what is
    saved then has names that nothing loads; elsewhere it is left out unasked.
    """
    whole = any(w for pattern in _WEIGHTS for w in folder.glob(pattern) if not w.name.startswith("adapter_"))
    adapter = (folder / ADAPTER).is_file() or (not whole and any(folder.glob("adapter_model*")))
    if adapter and whole:
        raise ModelError(
            f"{folder} holds both full weights and a PEFT adapter, so it is unclear which to use",
            "to use only the weights, move adapter_* to another folder; to use both, move them too and then " + _MERGE,
        )
    if adapter:
        raise ModelError(f"{folder} holds a PEFT adapter, not a model", _MERGE)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"the folder {folder} does not hold a model: it has no {CONFIG}", _folder_hint(folder))
    if weights and not whole:
        raise ModelError(f"the folder {folder} has a {CONFIG} but no weights", "copy its safetensors files there too")


def refuse_apart(name: str, adapter: Path | None, what: str) -> None:
    """Refuse what cannot be done with a model that keeps a LoRA adapter of its LLM apart, in the folder `adapter`."""
    if adapter is not None:
        raise ModelError(
            f"{name} keeps a LoRA adapter beside its language model, and {what}",
            f"merge the two first: vpgt export {name} --to hf --out FOLDER",
        )


def hub_adapter(hub_id: str) -> ModelError:
    """A repository of the hub that holds a PEFT adapter."""
    return ModelError(f"{hub_id} on the hub holds a PEFT adapter", _MERGE)


def _folder_hint(folder: Path) -> str:
    if (folder / RECORD).is_file():
        return "it holds an unfinished run: continue it with --resume"
    inner = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
    if inner:
        return f"there is a model in {folder / inner[-1]}"
    if adapters := sorted(p.parent.name for p in folder.glob(f"*/{ADAPTER}")):
        return f"{folder / adapters[-1]} holds a PEFT adapter: {_MERGE}"
    return "give a folder that save_pretrained wrote"


# Kinds of models


def refuse_code(name: str, config: dict[str, Any], registry: Registry) -> None:
    """Refuse a model that can only be run by code that comes with it."""
    model_type = str(config.get("model_type"))
    if any(registry.knows_type(kind, model_type) for kind in (LLMFamily, VPGFamily)) or not needs_code(config):
        return  # transformers' own classes are used, not the folder's
    raise UnsafeInput(
        f"{name} needs its own code (auto_map in its {CONFIG}): no plugin and no "
        f"transformers class knows its model_type {model_type!r}",
        "read that code, and give --trust-remote-code if you trust it",
    )


def refuse_vl_target(name: str, config: dict[str, Any], registry: Registry) -> None:
    """Refuse a VL-LLM where a language model alone is wanted."""
    model_type = str(config.get("model_type"))
    if reason := _reason(model_type, registry):
        raise ModelError(f"{name} cannot be a target: {reason}", "give a plain language model")
    if registry.knows_type(VPGFamily, model_type):
        raise target_sees(name, f"a VL-LLM (model_type {model_type!r})", None)
    if "vision_config" in config and not registry.knows_type(LLMFamily, model_type):
        raise target_sees(name, f"a model that already reads images (model_type {model_type!r})", None)


def target_sees(name: str, what: str, llm: str | None) -> ModelError:
    """The target is `what` (a kind of VL-LLM), whose language model is `llm`."""
    which = f": {llm!r}" if llm else ""
    return ModelError(
        f"{name} is {what}, but the target must be a plain language model", f"give the language model itself{which}"
    )


def not_a_source(name: str, folder: Path | None, config: dict[str, Any], registry: Registry) -> ModelError:
    """No VPG family has a model of this config."""
    model_type = str(config.get("model_type"))
    if reason := _reason(model_type, registry):
        return ModelError(f"{name} cannot be a source: {reason}", f"known sources: {_sources(registry)}")
    lost = join(lost_plugins(folder, registry), registry.lost_hint())
    if "vision_config" in config or lost_plugins(folder, registry):
        kinds = ", ".join(t for f in registry.vpg_families() for t in f.model_types) or "none"
        what = f"no plugin supports the VL-LLM {name} (model_type {model_type!r}; supported: {kinds})"
        return ModelError(what, join(lost, "a plugin can add support for it"))
    what = f"{name} is not a VL-LLM (model_type {model_type!r}): a source has a VPG, a projector and a language model"
    return ModelError(what, join(lost, f"known sources: {_sources(registry)}"))


def _reason(model_type: str, registry: Registry) -> str | None:
    """Why models of this type cannot be carried, where a plugin knows."""
    return next((why for f in registry.vpg_families() for kind, why in f.refused if kind == model_type), None)


def _sources(registry: Registry) -> str:
    return ", ".join(s.card.alias for s in registry.sources() if s.card.llm) or "none"


def join(*hints: str) -> str:
    """Hints in one line, without the empty ones."""
    return "; ".join(h for h in hints if h)

"""From names to things: aliases, hub ids and folders become a `ResolvedLLM` or a `ResolvedSource`.

Planning needs configs only (``weights=False``): from the folder, else from the hub, else, without network, from the
sizes on the model's card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vpgtrans_core.cards import LLMCard, LLMFamily, SourceCard, VPGFamily
from vpgtrans_core.errors import ModelError, UnsafeInput, did_you_mean
from vpgtrans_core.models.hub import HUB_ID, HubUnreachable, hub_config, hub_folder, split_hub_id
from vpgtrans_core.registry import KnownLLM, KnownSource, Registry
from vpgtrans_core.settings import Settings

Origin = Literal["hub", "folder", "bundled"]
CONFIG = "config.json"
REFERENCES = "references.json"
"""Beside a VPG saved without its LLM (``--save vpg``): ``{"llm": ResolvedLLM.reference(), ...}``."""
LLM_PREFIX = "language_model."
"""What the names of the LLM's tensors begin with in a VL-LLM's folder."""
_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Place:
    """Where a model is and what its config says.

    Attributes:
        folder: None when only its config is known (planning, not downloaded).
        config: the content of ``config.json``.
        origin: ``folder``, ``hub`` or ``bundled`` (inside a Python package).
        hub_id, revision: set for a model of the hub; `revision` is a commit.
        from_card: the config was made of a card's sizes, without network.
    """

    folder: Path | None
    config: dict[str, Any]
    origin: Origin
    hub_id: str | None = None
    revision: str | None = None
    from_card: bool = False


@dataclass(frozen=True)
class ResolvedLLM:
    """A language model, found.

    Attributes:
        name: what the user wrote, or the alias.
        config: transformers' config of the language model itself (a VL-LLM's ``text_config``).
        family: its family, the fallback's where no plugin has one.
        plugin: the plugin of the family, None for the fallback.
        card: its card where it is known.
        prefix: what its tensors' names begin with in `folder`: ``""``, or ``"language_model."`` inside a VL-LLM.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    family: LLMFamily
    plugin: str | None = None
    card: LLMCard | None = None
    origin: Origin = "folder"
    hub_id: str | None = None
    revision: str | None = None
    prefix: str = ""
    from_card: bool = False

    @property
    def bundled(self) -> bool:
        return self.origin == "bundled"

    @property
    def embedding_size(self) -> int:
        """The width of the first block's input, as the config says it."""
        return config_size(self.config, "hidden_size", "d_model", "n_embd", "dim")

    @property
    def vocab_size(self) -> int:
        return config_size(self.config, "vocab_size")

    def reference(self) -> dict[str, Any]:
        """What another folder needs to find this model again; see `resolve_reference`."""
        return {
            "name": self.name,
            "alias": self.card.alias if self.card else None,
            "id": self.hub_id,
            "revision": self.revision,
            "folder": str(self.folder.resolve()) if self.folder and self.origin == "folder" else None,
            "prefix": self.prefix,
            "model_type": self.config.get("model_type"),
        }


@dataclass(frozen=True)
class ResolvedSource:
    """A trained VL-LLM, or a VPG alone, found.

    Attributes:
        config: the content of its ``config.json``.
        vpg_family: the family whose adapter loads it.
        llm: the LLM that its projector belongs to; None for a VPG alone, which has no projector either.
        pretrained: alias of its VPG as pre-training left it, where training from scratch starts.
        whole: its folder holds the LLM's weights too.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    vpg_family: VPGFamily
    plugin: str | None = None
    llm: ResolvedLLM | None = None
    card: SourceCard | None = None
    pretrained: str | None = None
    whole: bool = True
    origin: Origin = "folder"
    hub_id: str | None = None
    revision: str | None = None
    from_card: bool = False
    references: dict[str, Any] = field(default_factory=dict)

    @property
    def bundled(self) -> bool:
        return self.origin == "bundled"

    @property
    def has_projector(self) -> bool:
        return self.llm is not None


def check_names(names: Sequence[str], registry: Registry) -> None:
    """Refuse names that can be no model, before anything is fetched for the others.

    Raises:
        ModelError: one or more are neither an alias, nor the form of a hub id, nor a folder.
    """
    unknown = [name for name in dict.fromkeys(names) if not _may_be_known(name, registry)]
    if unknown:
        raise _unknown(unknown, registry)


def _may_be_known(name: str, registry: Registry) -> bool:
    rest = registry.split_plugin(name)[1]
    alias = registry.knows_llm(name) or registry.knows_source(name)
    return alias or _is_path(rest) or "/" in rest or (bool(rest) and Path(rest).exists())


def resolve_target(name: str, registry: Registry, settings: Settings, *, weights: bool = True) -> ResolvedLLM:
    """Find the language model of an alias, hub id or folder.

    Args:
        name: ``opt-2.7b``, ``plugin:opt-2.7b``, ``organisation/model[@revision]`` or a folder.
        weights: whether its weights are needed; without, nothing but a config is downloaded.

    Raises:
        ModelError: it is not known, not there, no language model or one that vpgt cannot run, or a VL-LLM.
        PluginError: several plugins claim it. UnsafeInput: it brings code and ``--trust-remote-code`` is not given.
    """
    plugin, rest = registry.split_plugin(name)
    known = _known_llm(name, rest, registry)
    if known is None and registry.knows_source(name):
        raise _target_sees(name, "an alias of a VL-LLM", registry.source(name).card.llm)
    place = _locate(name, rest, known, registry, settings, weights)
    _refuse_code(name, place.config, registry, settings)
    _refuse_vl_target(name, place.config, registry)
    family, owner = _llm_family(name, place.config, known, plugin, registry)
    return ResolvedLLM(
        name=name,
        folder=place.folder,
        config=place.config,
        family=family,
        plugin=owner,
        card=known.card if known else None,
        origin=place.origin,
        hub_id=place.hub_id,
        revision=place.revision,
        from_card=place.from_card,
    )


def resolve_source(name: str, registry: Registry, settings: Settings, *, weights: bool = True) -> ResolvedSource:
    """Find the VL-LLM of an alias, an LLM's alias, a hub id or a folder (transformers' or an earlier output).

    Raises:
        ModelError: it is not known, not there, or no VL-LLM of a known kind. PluginError, UnsafeInput: as in
            `resolve_target`.
    """
    plugin, rest = registry.split_plugin(name)
    known = _known_source(name, rest, registry)
    place = _locate(name, rest, known, registry, settings, weights)
    _refuse_code(name, place.config, registry, settings)
    family = known.family if known else registry.vpg_family_of(str(place.config.get("model_type")), plugin)
    if family is None:
        raise _no_source(name, place.config, registry)
    references = _references(place.folder)
    llm = _source_llm(name, place, known, references, registry, settings, weights)
    return ResolvedSource(
        name=name,
        folder=place.folder,
        config=place.config,
        vpg_family=family,
        plugin=known.plugin if known else registry.owner(family),
        llm=llm,
        card=known.card if known else None,
        pretrained=known.card.pretrained if known else references.get("pretrained"),
        whole=bool(llm and llm.prefix),
        origin=place.origin,
        hub_id=place.hub_id,
        revision=place.revision,
        from_card=place.from_card,
        references=references,
    )


def resolve_reference(
    reference: dict[str, Any], registry: Registry, settings: Settings, *, base: Path | None = None, weights: bool = True
) -> ResolvedLLM:
    """Find the language model that `ResolvedLLM.reference` described, in another session or on another machine.

    Args:
        reference: its folder, alias or hub id are tried in this order.
        base: the folder that a relative path in `reference` starts from.

    Raises:
        ModelError: it is not where it was.
    """
    name = _reference_name(reference, base or Path())
    if not reference.get("prefix"):
        return resolve_target(name, registry, settings, weights=weights)
    llm = resolve_source(name, registry, settings, weights=weights).llm
    if llm is None:
        raise ModelError(f"{name} is referred to for its language model and has none")
    return llm


def _reference_name(reference: dict[str, Any], base: Path) -> str:
    folder, alias, hub_id = (reference.get(key) for key in ("folder", "alias", "id"))
    if folder and (base / str(folder)).is_dir():
        return str((base / str(folder)).resolve())
    if alias:
        return str(alias)
    if hub_id:
        return f"{hub_id}@{revision}" if (revision := reference.get("revision")) else str(hub_id)
    raise ModelError(
        f"the language model {folder or ''!r} that a saved VPG refers to is not there",
        f"put it back, or correct its 'folder' in {base / REFERENCES}",
    )


def card_config(card: LLMCard, family: LLMFamily) -> dict[str, Any]:
    """A transformers config of a card's sizes, for planning without network.

    Families write some sizes under names of their own; each config class takes those that it knows.
    """
    sizes = {
        "model_type": family.model_types[0],
        "vocab_size": card.vocab_size,
        "hidden_size": card.hidden_size,
        "d_model": card.hidden_size,
        "num_hidden_layers": card.layers,
        "num_layers": card.layers,
        "num_decoder_layers": card.layers,
        "num_attention_heads": card.heads,
        "num_heads": card.heads,
        "intermediate_size": card.intermediate_size,
        "ffn_dim": card.intermediate_size,
        "d_ff": card.intermediate_size,
    }
    if card.kv_heads:
        sizes["num_key_value_heads"] = card.kv_heads
    return {**sizes, **card.config}


def config_size(config: dict[str, Any], *names: str) -> int:
    """The first of these fields in a config.

    Raises:
        ModelError: none of them is there as a whole number above 0.
    """
    for name in names:
        if isinstance(value := config.get(name), int) and value > 0:
            return value
    raise ModelError(f"the model's {CONFIG} (model_type {config.get('model_type')!r}) states no {' or '.join(names)}")


# Where a model is


def _known_llm(name: str, rest: str, registry: Registry) -> KnownLLM | None:
    return registry.llm_card(name) if registry.knows_llm(name) and not _is_path(rest) else None


def _known_source(name: str, rest: str, registry: Registry) -> KnownSource | None:
    if _is_path(rest):
        return None
    if registry.knows_source(name):
        return registry.source(name)
    if registry.knows_llm(name):
        sources = ", ".join(s.card.alias for s in registry.sources() if s.card.llm)
        raise ModelError(
            f"{name!r} is a language model, and no known VL-LLM has it",
            f"the known sources are {sources or 'none'}; a folder with a VL-LLM works too",
        )
    return None


def _is_path(text: str) -> bool:
    """Whether the user writes a path, as against a name that may also be that of a folder here."""
    return text.startswith((".", "/", "~")) or text.endswith("/")


def _locate(
    name: str, rest: str, known: KnownLLM | KnownSource | None, registry: Registry, settings: Settings, weights: bool
) -> Place:
    if not rest:
        raise _unknown([rest], registry)
    if known and known.card.bundled:
        return _in_package(known.card, weights)
    if known:
        return _on_hub(known.card.hub_id, known.card.revision, known, registry, settings, weights)
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return _in_folder(folder, weights)
    if folder.is_file():
        raise ModelError(f"{name} is a file, not a model", "give the folder that holds config.json and the weights")
    if _is_path(rest) or rest.count("/") > 1:
        raise ModelError(f"there is no folder {rest}")
    if HUB_ID.fullmatch(rest):
        try:
            return _on_hub(*split_hub_id(rest), None, registry, settings, weights)
        except HubUnreachable as error:
            raise HubUnreachable(f"{error.message} (nor is there a folder {rest} here)", error.hint) from error
    raise _unknown([name], registry)


def _unknown(names: Sequence[str], registry: Registry) -> ModelError:
    if not all(names):
        return ModelError("no model is named", "give --from and --to; `vpgt list-models` shows what is known")
    aliases = [alias for known in registry.llms() for alias in (known.card.alias, *known.card.also)]
    aliases += [source.card.alias for source in registry.sources()]
    hints = [
        *(did_you_mean(name, aliases) for name in names),
        "`vpgt list-models` shows all that is known; a folder or a hub id (organisation/model) works too",
        registry.lost_hint(),
    ]
    said = f"unknown model {names[0]!r}" if len(names) == 1 else f"unknown models {', '.join(map(repr, names))}"
    return ModelError(f"{said}: no alias, and no folder here", _join(*hints))


def _in_package(card: LLMCard | SourceCard, weights: bool) -> Place:
    package, _, inner = (card.bundled or "").partition(":")
    try:
        folder = Path(str(resources.files(package))) / inner
    except ImportError as error:
        raise ModelError(f"{card.alias} ships in the package {package!r}, which is not installed") from error
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{card.alias} should ship in {folder} and is not there", "install the package again")
    place = _in_folder(folder, weights)
    return Place(place.folder, place.config, "bundled")


def _in_folder(folder: Path, weights: bool) -> Place:
    from vpgtrans_core.weights import read_json

    if not (folder / CONFIG).is_file():
        raise ModelError(f"the folder {folder} is no model: it has no {CONFIG}", _folder_hint(folder))
    if weights and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise ModelError(f"the folder {folder} has a {CONFIG} and no weights", "copy its safetensors files there too")
    return Place(folder, read_json(folder / CONFIG), "folder")


def _folder_hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it holds a PEFT adapter: merge it into its model and save that"
    if (folder / "run.json").is_file():
        return "it holds a run that has not ended: continue it with --resume"
    inner = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG}"))
    return f"there is one in {folder / inner[-1]}" if inner else "give a folder as save_pretrained writes it"


def _on_hub(
    hub_id: str,
    revision: str | None,
    known: KnownLLM | KnownSource | None,
    registry: Registry,
    settings: Settings,
    weights: bool,
) -> Place:
    if weights:
        folder = hub_folder(hub_id, revision, offline=settings.offline)
        place = _in_folder(folder, weights)
        return Place(folder, place.config, "hub", hub_id, folder.name)
    try:
        config, commit = hub_config(hub_id, revision, offline=settings.offline)
    except HubUnreachable:
        if known is None:
            raise
        return Place(None, _card_config(known, registry), "hub", hub_id, revision, from_card=True)
    return Place(None, config, "hub", hub_id, commit)


def _card_config(known: KnownLLM | KnownSource, registry: Registry) -> dict[str, Any]:
    if isinstance(known, KnownLLM):
        return card_config(known.card, known.family)
    config = {"model_type": known.family.model_types[0], **known.card.config}
    if known.card.llm:
        llm = registry.llm_of(known)
        config["text_config"] = card_config(llm.card, llm.family)
    return config


# What a model is


def _llm_family(
    name: str, config: dict[str, Any], known: KnownLLM | None, plugin: str | None, registry: Registry
) -> tuple[LLMFamily, str | None]:
    if known:
        return known.family, known.plugin
    model_type = str(config.get("model_type"))
    if family := registry.llm_family_of(model_type, plugin):
        return family, registry.owner(family)
    try:
        _refuse_headless(config)
        return _fallback(model_type, config), None
    except ModelError as error:
        raise ModelError(
            f"{name} is no language model that vpgt can give soft prompts, because its word embeddings cannot be "
            f"reached: {error.message}",
            _join(error.hint, registry.lost_hint()),
        ) from error


def _refuse_headless(config: dict[str, Any]) -> None:
    """Refuse a model that says of itself that it is something else than a language model with its head."""
    if needs_code(config) and any("ForCausalLM" in str(name) for name in config["auto_map"]):
        return
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and not any(str(a).endswith(_HEADS) for a in architectures):
        raise ModelError(f"it is a {architectures[0]} (model_type {config.get('model_type')!r})")


def _fallback(model_type: str, config: dict[str, Any]) -> LLMFamily:
    """The family of a model that no plugin knows: transformers' own, or code that the user trusts."""
    from vpgtrans_core.llm.fallback import fallback_family

    if needs_code(config):
        return LLMFamily(name=model_type, model_types=(model_type,), adapter="vpgtrans_core.llm.any_causal:AnyCausalLM")
    return fallback_family(model_type)


def needs_code(config: dict[str, Any]) -> bool:
    """Whether a model can only be run by code that comes with it."""
    return "auto_map" in config and not _is_native(str(config.get("model_type")))


def _is_native(model_type: str) -> bool:
    """Whether transformers itself has a language model of this type."""
    from vpgtrans_core.llm.fallback import fallback_family

    try:
        return bool(fallback_family(model_type))
    except ModelError:
        return False


def _source_llm(
    name: str,
    place: Place,
    known: KnownSource | None,
    references: dict[str, Any],
    registry: Registry,
    settings: Settings,
    weights: bool,
) -> ResolvedLLM | None:
    if isinstance(reference := references.get("llm"), dict):
        return resolve_reference(reference, registry, settings, base=place.folder, weights=weights)
    if isinstance(text := place.config.get("text_config"), dict):
        return _inner_llm(name, text, place, known, registry)
    if known and known.card.llm:
        llm = registry.llm_of(known)
        return resolve_target(f"{llm.plugin}:{llm.card.alias}", registry, settings, weights=weights)
    return None


def _inner_llm(
    name: str, text: dict[str, Any], place: Place, known: KnownSource | None, registry: Registry
) -> ResolvedLLM:
    """The LLM inside a VL-LLM's folder."""
    alias = known.card.llm if known else None
    card = registry.llm_of(known) if known and alias and registry.knows_llm(alias) else None
    family, owner = _llm_family(f"the language model of {name}", text, card, None, registry)
    return ResolvedLLM(
        name=alias or name,
        folder=place.folder,
        config=text,
        family=family,
        plugin=owner,
        card=card.card if card else None,
        origin=place.origin,
        hub_id=place.hub_id,
        revision=place.revision,
        prefix=LLM_PREFIX,
        from_card=place.from_card,
    )


def _references(folder: Path | None) -> dict[str, Any]:
    from vpgtrans_core.weights import read_json

    return read_json(folder / REFERENCES) if folder and (folder / REFERENCES).is_file() else {}


# What is refused


def _refuse_code(name: str, config: dict[str, Any], registry: Registry, settings: Settings) -> None:
    """Refuse a model that can only be run by code that comes with it."""
    if "auto_map" not in config or settings.trust_remote_code:
        return
    model_type = str(config.get("model_type"))
    if registry.llm_family_of(model_type) or registry.vpg_family_of(model_type) or _is_native(model_type):
        return  # transformers' own classes are used, not the folder's
    raise UnsafeInput(
        f"{name} brings its own code (auto_map in its {CONFIG}), and nobody else's knows its model_type {model_type!r}",
        "read that code; if you trust it, give --trust-remote-code",
    )


def _refuse_vl_target(name: str, config: dict[str, Any], registry: Registry) -> None:
    model_type = str(config.get("model_type"))
    if registry.vpg_family_of(model_type):
        raise _target_sees(name, f"a VL-LLM (model_type {model_type!r})", None)
    if "vision_config" in config and not registry.llm_family_of(model_type):
        raise _target_sees(name, f"a model that sees already (model_type {model_type!r})", None)


def _target_sees(name: str, what: str, llm: str | None) -> ModelError:
    said = f": {llm!r}" if llm else ""
    return ModelError(
        f"{name} is {what}; the target is a language model alone", f"give the language model itself{said}"
    )


def _no_source(name: str, config: dict[str, Any], registry: Registry) -> ModelError:
    model_type = str(config.get("model_type"))
    if "vision_config" in config:
        kinds = ", ".join(t for f in registry.vpg_families() for t in f.model_types) or "none"
        said = f"{name} is a VL-LLM of a kind that no plugin knows (model_type {model_type!r}; known: {kinds})"
        return ModelError(said, _join("a plugin can add it", registry.lost_hint()))
    said = f"{name} is no VL-LLM (model_type {model_type!r}): a source has a VPG, a projector and a language model"
    sources = ", ".join(s.card.alias for s in registry.sources() if s.card.llm)
    return ModelError(said, _join(f"known sources: {sources or 'none'}", registry.lost_hint()))


def _join(*hints: str) -> str:
    return "; ".join(h for h in hints if h)

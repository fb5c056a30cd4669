"""From names to models: aliases, hub ids and folders become a `ResolvedLLM` or a `ResolvedSource`. Loads no torch.

A name asks the registry who it is (`Resolver`), and `places` where it is; `refusals` says what cannot be used. Planning
needs configs only (``weights=False``): from the folder, else from the hub, else from the sizes on the model's card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from vpgtrans_core.cards import BosOrder, LLMFamily, VPGFamily, know_classes
from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import ADAPTER, CONFIG, LLM_PREFIX, REFERENCES, read_json
from vpgtrans_core.models import refusals
from vpgtrans_core.models.kinds import fallback_of, needs_code
from vpgtrans_core.models.places import Place, Places, is_path
from vpgtrans_core.models.resolved import ResolvedLLM, ResolvedSource
from vpgtrans_core.registry import KnownLLM, KnownSource, Registry
from vpgtrans_core.settings import Settings


class Resolver:
    """Resolves names with one registry and one run's settings.

    Args:
        weights: whether weights are needed; without, nothing but a config is downloaded.
    """

    def __init__(self, registry: Registry, settings: Settings, *, weights: bool = True) -> None:
        self.registry = registry
        self.settings = settings
        self.places = Places(registry, settings, weights)
        self._referred: set[str] = set()

    def target(self, name: str, plugin: str | None = None) -> ResolvedLLM:
        """See `resolve_target`; `plugin` decides between families where `name` itself names no plugin."""
        written, rest = self.registry.split_plugin(name)
        known = self._known_llm(name, rest)
        if known is None and self.registry.knows_source(name):
            raise refusals.target_sees(name, "an alias of a VL-LLM", self.registry.source(name).card.llm)
        place = self.places.of(name, rest, known)
        self._refuse_code(name, place.config)
        refusals.refuse_vl_target(name, place.config, self.registry)
        family, owner = self._llm_family(name, place.config, known, written or plugin)
        card = known.card if known else None
        llm = ResolvedLLM(name, place, place.config, family, owner, card)
        if self.settings.bos != "auto":
            return replace(llm, family=replace(family, bos=self.settings.bos))
        return _with_bos(llm, place.config, name, (card and card.bos) or family.bos)

    def source(self, name: str) -> ResolvedSource:
        """See `resolve_source`."""
        plugin, rest = self.registry.split_plugin(name)
        known = self._known_source(name, rest)
        place = self.places.of(name, rest, known)
        self._refuse_code(name, place.config)
        family = known.family if known else self.registry.vpg_family_of(str(place.config.get("model_type")), plugin)
        if family is None:
            raise refusals.not_a_source(name, place.folder, place.config, self.registry)
        references = read_references(place.folder)
        return ResolvedSource(
            name=name,
            place=place,
            vpg_family=_with_tiles(family, place.config, name, wanted=self.settings.tiles),
            plugin=known.plugin if known else self.registry.owner(family),
            llm=self._llm_of_source(name, plugin, place, known, references, family),
            card=known.card if known else None,
            pretrained=known.card.pretrained if known else references.get("pretrained"),
            references=references,
        )

    def reference(self, reference: dict[str, Any], base: Path | None, plugin: str | None = None) -> ResolvedLLM:
        """See `resolve_reference`."""
        name = _reference_name(reference, base or Path())
        if not reference.get("prefix"):
            return self.target(name, plugin)
        if name in self._referred:
            raise ModelError(f"{name} refers to itself for its language model", f"correct 'llm' in its {REFERENCES}")
        self._referred.add(name)
        if (llm := self.source(name).llm) is None:
            raise ModelError(f"another model refers to {name} for its language model, but {name} has none")
        self._referred.discard(name)
        return llm

    def _llm_of_source(
        self,
        name: str,
        plugin: str | None,
        place: Place,
        known: KnownSource | None,
        references: dict[str, Any],
        vpg_family: VPGFamily,
    ) -> ResolvedLLM | None:
        """The LLM of a source: in another folder, inside its own, or what its card names.

        It reads texts as the source was trained, so its BOS stands where the folder says, or where the VPG's family has
        it."""
        usual = vpg_family.bos
        if isinstance(reference := references.get("llm"), dict):
            kept = place.folder / ADAPTER if place.folder else None
            own = self.reference(reference, place.folder, plugin)
            own = replace(own, adapter=kept if kept and kept.is_dir() else None)
            return _with_bos(own, reference, name, usual)
        if isinstance(text := place.config.get("text_config"), dict):
            return _with_bos(self._inner_llm(name, plugin, text, place, known, vpg_family), place.config, name, usual)
        if known and known.card.llm:
            llm = self.registry.llm_of(known)
            return _with_bos(self.target(f"{llm.plugin}:{llm.card.alias}"), {}, name, usual)
        return None

    def _inner_llm(
        self,
        name: str,
        plugin: str | None,
        text: dict[str, Any],
        place: Place,
        source: KnownSource | None,
        vpg_family: VPGFamily,
    ) -> ResolvedLLM:
        """The LLM inside a VL-LLM's folder."""
        alias = source.card.llm if source else None
        known = self.registry.llm_of(source) if source and alias and self.registry.knows_llm(alias) else None
        family, owner = self._llm_family(f"the language model of {name}", text, known, plugin)
        card = known.card if known else None
        prefix = vpg_family.llm_trunk or LLM_PREFIX
        return ResolvedLLM(alias or name, place, text, family, owner, card, prefix, vpg_family.llm_head)

    def _known_llm(self, name: str, rest: str) -> KnownLLM | None:
        return self.registry.llm_card(name) if self.registry.knows_llm(name) and not is_path(rest) else None

    def _known_source(self, name: str, rest: str) -> KnownSource | None:
        if is_path(rest):
            return None
        if self.registry.knows_source(name):
            return self.registry.source(name)
        if self.registry.knows_llm(name):
            raise refusals.no_source_with(name, self.registry)
        return None

    def _refuse_code(self, name: str, config: dict[str, Any]) -> None:
        if not self.settings.trust_remote_code:
            refusals.refuse_code(name, config, self.registry)

    def _llm_family(
        self, name: str, config: dict[str, Any], known: KnownLLM | None, plugin: str | None
    ) -> tuple[LLMFamily, str | None]:
        """The family of an LLM and the plugin that has it; transformers then knows the family's classes."""
        if known:
            know_classes(known.family)
            return known.family, known.plugin
        if family := self.registry.llm_family_of(str(config.get("model_type")), plugin):
            know_classes(family)
            return family, self.registry.owner(family)
        try:
            return fallback_of(config), None
        except ModelError as error:
            raise ModelError(
                f"vpgt cannot feed soft prompts to {name}, because its word embeddings cannot be reached: "
                f"{error.message}",
                refusals.join(self.registry.lost_hint(), error.hint),
            ) from error


def _with_tiles(family: VPGFamily, config: dict[str, Any], name: str, *, wanted: bool) -> VPGFamily:
    """The family with the adapter that cuts pictures into tiles, where a folder was written by it or the user wants it.

    Raises:
        ModelError: the user wants it, and the family has none.
    """
    if not wanted and config.get("tiles") is not True:
        return family
    if not family.tiles:
        raise ModelError(
            f"whether pictures of {name} are cut into tiles cannot be chosen: its family, {family.name}, has one way",
            "leave --tiles out",
        )
    return replace(family, adapter=family.tiles)


def check_names(names: Sequence[str], registry: Registry, settings: Settings | None = None) -> None:
    """Refuse names that can be no model, before anything is fetched for the others.

    Args:
        settings: those of a run that is resumed: its record names the plugins that it was made with.

    Raises:
        ModelError: one or more are neither an alias, nor the form of a hub id, nor a folder.
    """
    unknown = [name for name in dict.fromkeys(names) if not _may_be_known(name, registry)]
    if unknown:
        folder = Path(settings.out).expanduser() if settings and settings.resume and settings.out else None
        raise refusals.unknown(unknown, registry, refusals.lost_plugins(folder, registry))


def _may_be_known(name: str, registry: Registry) -> bool:
    rest = registry.split_plugin(name)[1]
    alias = registry.knows_llm(name) or registry.knows_source(name)
    return alias or is_path(rest) or "/" in rest or (bool(rest) and Path(rest).exists())


def resolve_target(name: str, registry: Registry, settings: Settings, *, weights: bool = True) -> ResolvedLLM:
    """Find the language model of an alias, hub id or folder.

    Args:
        name: ``opt-2.7b``, ``plugin:opt-2.7b``, ``organisation/model[@revision]`` or a folder.
        weights: whether its weights are needed; without, nothing but a config is downloaded.

    Raises:
        ModelError: it is not known, not there, no language model or one that vpgt cannot run, or a VL-LLM.
        PluginError: several plugins claim it. UnsafeInput: it brings code and ``--trust-remote-code`` is not given.
    """
    return Resolver(registry, settings, weights=weights).target(name)


def resolve_source(name: str, registry: Registry, settings: Settings, *, weights: bool = True) -> ResolvedSource:
    """Find the VL-LLM of an alias, an LLM's alias, a hub id or a folder (transformers' or an earlier output).

    Raises:
        ModelError: it is not known, not there, or no VL-LLM of a known kind. PluginError, UnsafeInput: as in
            `resolve_target`.
    """
    return Resolver(registry, settings, weights=weights).source(name)


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
    return Resolver(registry, settings, weights=weights).reference(reference, base)


def read_references(folder: Path | None) -> dict[str, Any]:
    """What a folder's ``references.json`` says, or an empty dict without one."""
    return read_json(folder / REFERENCES) if folder and (folder / REFERENCES).is_file() else {}


def _with_bos(llm: ResolvedLLM, stated: dict[str, Any], name: str, usual: BosOrder) -> ResolvedLLM:
    """An LLM with the place of BOS that its folder, or its VL-LLM's, states, or else with the usual one."""
    bos = stated.get("bos", usual)
    if bos not in get_args(BosOrder):
        raise ModelError(
            f"{name} states {bos!r} for the place of BOS", f"correct 'bos' in its {CONFIG} or {REFERENCES}"
        )
    return replace(llm, family=replace(llm.family, bos=bos))


def _reference_name(reference: dict[str, Any], base: Path) -> str:
    folder, alias, hub_id = (reference.get(key) for key in ("folder", "alias", "id"))
    if folder and (base / str(folder)).is_dir():
        return str((base / str(folder)).resolve())
    if alias:
        return str(alias)
    if hub_id:
        return f"{hub_id}@{revision}" if (revision := reference.get("revision")) else str(hub_id)
    raise ModelError(
        f"a saved VPG refers to the language model {folder or ''!r}, which does not exist",
        f"restore it, or correct its 'folder' in {base / REFERENCES}",
    )


__all__ = [
    "ResolvedLLM",
    "ResolvedSource",
    "Resolver",
    "check_names",
    "needs_code",
    "read_references",
    "resolve_reference",
    "resolve_source",
    "resolve_target",
]

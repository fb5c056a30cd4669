"""All that plugins and card files provide, by name, and the look-ups of the core. Loads no torch.

A name that two plugins claim is *ambiguous*: asking for it names both, and ``plugin:name`` asks for one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vpgtrans_core.cards import (
    Command,
    EmbeddingAccess,
    EvalMetric,
    EvalTask,
    LLMCard,
    LLMFamily,
    SourceCard,
    VPGFamily,
)
from vpgtrans_core.errors import ModelError, PluginError, did_you_mean
from vpgtrans_core.registry.loading import HOME, PluginRecord

T = TypeVar("T")
KINDS: dict[type, str] = {
    LLMFamily: "llm family",
    EmbeddingAccess: "embedding access",
    VPGFamily: "vpg family",
    Command: "command",
    EvalTask: "eval task",
    EvalMetric: "eval metric",
}
"""What a plugin may provide, and what it is called in a record."""


@dataclass(frozen=True)
class Provided(Generic[T]):
    """Something under one name, and the plugin that gives it."""

    name: str
    item: T
    plugin: str


@dataclass(frozen=True)
class KnownLLM:
    """A language model known by alias."""

    card: LLMCard
    family: LLMFamily
    plugin: str


@dataclass(frozen=True)
class KnownSource:
    """A trained VL-LLM (or a VPG alone) known by alias."""

    card: SourceCard
    family: VPGFamily
    plugin: str


class Catalogue:
    """What is provided, and by whom. `records` are those of the plugins, in the order in which they were loaded."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._provided: dict[type, list[Provided[Any]]] = {kind: [] for kind in KINDS}
        self._llms: list[Provided[KnownLLM]] = []
        self._sources: list[Provided[KnownSource]] = []

    # What there is

    def llm_families(self) -> list[LLMFamily]:
        return [p.item for p in self._provided[LLMFamily]]

    def vpg_families(self) -> list[VPGFamily]:
        return [p.item for p in self._provided[VPGFamily]]

    def commands(self) -> list[Provided[Command]]:
        return list(self._provided[Command])

    def eval_tasks(self) -> list[EvalTask]:
        return [p.item for p in self._provided[EvalTask]]

    def eval_metrics(self) -> list[EvalMetric]:
        return [p.item for p in self._provided[EvalMetric]]

    def llms(self) -> list[KnownLLM]:
        """Every language model once, however many names it has."""
        return [p.item for p in self._llms if p.name == p.item.card.alias]

    def sources(self) -> list[KnownSource]:
        return [p.item for p in self._sources]

    # Filling it

    def keep(self, record: PluginRecord, kind: type, item: Any) -> None:
        """Keep what a plugin provides: an item of one of the `KINDS`, with the models in it."""
        name = item.name if hasattr(item, "name") else " ".join(item.model_types)
        record.provides.append(f"{KINDS[kind]} {name}")
        self._provided[kind].append(Provided(name, item, record.name))
        if kind is LLMFamily:
            for card in item.cards:
                self.keep_llm(record, card, item)
        if kind is VPGFamily:
            for source in item.sources:
                self.keep_source(record, source, item)

    def keep_llm(self, record: PluginRecord, card: LLMCard, family: LLMFamily) -> None:
        """Keep a language model under all its names."""
        known = KnownLLM(card, family, record.name)
        for name in (card.alias, *card.also):
            record.provides.append(f"llm {name}")
            self._llms.append(Provided(name, known, record.name))

    def keep_source(self, record: PluginRecord, card: SourceCard, family: VPGFamily) -> None:
        """Keep a source under its alias."""
        record.provides.append(f"source {card.alias}")
        self._sources.append(Provided(card.alias, KnownSource(card, family, record.name), record.name))

    def note_conflicts(self) -> None:
        """Warn in the record of every plugin that claims a name or model type that another claims too."""
        tables: list[tuple[str, list[Provided[Any]]]] = [("LLM alias", self._llms), ("source alias", self._sources)]
        tables += [(KINDS[kind], provided) for kind, provided in self._provided.items() if kind is not EmbeddingAccess]
        for what, provided in tables:
            for name, plugins in _claims(provided):
                self._note_conflict(f"{what} {name!r}", plugins, name)
        for kind in (LLMFamily, VPGFamily, EmbeddingAccess):
            by_type = [Provided(t, p.item, p.plugin) for p in self._provided[kind] for t in p.item.model_types]
            for name, plugins in _claims(by_type):
                self._note_conflict(f"{KINDS[kind]} of model type {name!r}", plugins, "MODEL")

    def _note_conflict(self, what: str, plugins: list[str], asked: str) -> None:
        for plugin in dict.fromkeys(plugins):
            others = [self.record(p).title for p in dict.fromkeys(plugins) if p != plugin] or ["the plugin itself"]
            self.record(plugin).warnings.append(
                f"{what} is ambiguous, because {' and '.join(others)} also provides it: write '{plugin}:{asked}'"
            )

    # Look-ups by name

    def llm_card(self, name: str) -> KnownLLM:
        """Return the language model of an alias, ``plugin:alias`` or known hub id.

        Raises:
            ModelError: it is unknown; the error names similar names and the inactive plugins that might provide it.
            PluginError: several plugins provide it.
        """
        return self._one("language model", name, self._by_name_or_hub(self._llms, name), (p.name for p in self._llms))

    def source(self, name: str) -> KnownSource:
        """Return the source of an alias, ``plugin:alias`` or known hub id, or of its LLM's alias.

        Raises:
            ModelError: it is unknown. PluginError: several plugins provide it.
        """
        hits = self._by_name_or_hub(self._sources, name) or self._sources_with_llm(name)
        known = [p.name for p in self._sources] + [p.item.card.llm for p in self._sources if p.item.card.llm]
        return self._one("source VL-LLM", name, hits, known)

    def llm_of(self, source: KnownSource) -> KnownLLM:
        """Return the language model that a source's card names: of several, that of the source's own distribution.

        Raises:
            ModelError: it is unknown. PluginError: several plugins of other distributions provide it.
        """
        hits, name = _called(self._llms, source.card.llm or ""), source.card.llm or ""
        home = self.record(source.plugin).distribution
        own = [p for p in hits if self.record(p.plugin).distribution == home]
        return self._one("language model", name, own or hits, (p.name for p in self._llms))

    def knows_llm(self, name: str) -> bool:
        return bool(self._by_name_or_hub(self._llms, name))

    def knows_source(self, name: str) -> bool:
        return bool(self._by_name_or_hub(self._sources, name) or self._sources_with_llm(name))

    def llm_family(self, name: str) -> LLMFamily:
        """Return the LLM family of this name (or ``plugin:name``).

        Raises:
            ModelError: it is unknown. PluginError: several plugins provide it.
        """
        provided = self._provided[LLMFamily]
        return self._one("LLM family", name, _called(provided, name), (p.name for p in provided))

    def vpg_family(self, name: str) -> VPGFamily:
        """Return the VPG family of this name (or ``plugin:name``).

        Raises:
            ModelError: it is unknown. PluginError: several plugins provide it.
        """
        provided = self._provided[VPGFamily]
        return self._one("VPG family", name, _called(provided, name), (p.name for p in provided))

    def eval_task(self, name: str) -> EvalTask:
        """Return the evaluation task of this name (or ``plugin:name``).

        Raises:
            ModelError: nobody knows it. PluginError: several plugins do.
        """
        return self._one_for_eval("evaluation task", EvalTask, name)

    def eval_metric(self, name: str) -> EvalMetric:
        """Return the metric of this name (or ``plugin:name``).

        Raises:
            ModelError: nobody knows it. PluginError: several plugins do.
        """
        return self._one_for_eval("metric", EvalMetric, name)

    # Look-ups by model type

    def knows_type(self, kind: type, model_type: str) -> bool:
        """Whether any plugin, or several, have an item of one of the `KINDS` for a transformers model type."""
        return any(model_type in p.item.model_types for p in self._provided[kind])

    def llm_family_of(self, model_type: str, plugin: str | None = None) -> LLMFamily | None:
        """Return the family of a transformers model type, or None when no plugin has it (the fallback's case).

        Raises:
            PluginError: several plugins have it and `plugin` names none of them.
        """
        return self._of_type(LLMFamily, model_type, plugin)

    def vpg_family_of(self, model_type: str, plugin: str | None = None) -> VPGFamily | None:
        """Return the VPG family whose folders have this model type, or None.

        Raises:
            PluginError: several plugins have it and `plugin` names none of them.
        """
        return self._of_type(VPGFamily, model_type, plugin)

    def embedding_access(self, model_type: str, plugin: str | None = None) -> EmbeddingAccess | None:
        """Return how the word embeddings of a model type are read, or None when the plain way is right.

        Raises:
            PluginError: several plugins have it and `plugin` names none of them.
        """
        return self._of_type(EmbeddingAccess, model_type, plugin)

    # Plugins

    def owner(self, family: LLMFamily | VPGFamily) -> str | None:
        """The plugin that provides a family."""
        return next((p.plugin for p in self._provided[type(family)] if p.item is family), None)

    def record(self, plugin: str) -> PluginRecord:
        """The record of an active plugin."""
        return next(r for r in self.records if r.name == plugin and r.status == "active")

    def split_plugin(self, name: str) -> tuple[str | None, str]:
        """Split ``plugin:name`` where the part before the colon is an active plugin; otherwise ``(None, name)``."""
        plugin, colon, rest = name.partition(":")
        known = {r.name for r in self.records if r.status == "active"}
        return (plugin, rest) if colon and rest and plugin in known else (None, name)

    def lost_hint(self) -> str:
        """A hint that names the plugins that are not active: one of them might have had what was looked for."""
        lost = [r for r in self.records if r.status != "active"]
        hints = [f"{r.title} might provide it, but is {r.status}: {r.cause}" for r in lost[:3]]
        more = [f"and {len(lost) - 3} more; see `vpgt list-plugins`"] if len(lost) > 3 else []
        return "; ".join(hints + more)

    # Helpers of the look-ups

    def _by_name_or_hub(self, provided: list[Provided[Any]], name: str) -> list[Provided[Any]]:
        plugin, rest = self.split_plugin(name)
        different = {id(p.item): p for p in reversed(provided)}.values()  # a model may have several names
        hub = [p for p in different if p.item.card.hub_id.lower() == rest.lower() and plugin in (None, p.plugin)]
        return _called(provided, name) or (hub if rest else [])

    def _sources_with_llm(self, name: str) -> list[Provided[Any]]:
        """The first source of each plugin whose LLM has this alias; vpgt's own alone where it has one, so that another
        plugin's source on the same LLM changes nothing for those who write the LLM's name."""
        plugin, rest = self.split_plugin(name)
        first: dict[str, Provided[Any]] = {}
        for p in self._sources:
            if p.item.card.llm and p.item.card.llm.lower() == rest.lower() and plugin in (None, p.plugin):
                first.setdefault(p.plugin, p)
        own = [p for p in first.values() if self.record(p.plugin).distribution == HOME]
        return own or list(first.values())

    def _one_for_eval(self, what: str, kind: type, name: str) -> Any:
        provided = self._provided[kind]
        return self._one(what, name, _called(provided, name), (p.name for p in provided), "vpgt eval --list")

    def _one(
        self, what: str, name: str, hits: list[Provided[T]], known: Iterable[str], listing: str = "vpgt list-models"
    ) -> T:
        if len(hits) == 1:
            return hits[0].item
        if hits:
            raise self._ambiguous(f"{what} {name!r}", hits, name)
        hints = [self.lost_hint(), did_you_mean(name, known), f"`{listing}` lists what is known"]
        raise ModelError(f"unknown {what} {name!r}", "; ".join(filter(None, hints)))

    def _of_type(self, kind: type, model_type: str, plugin: str | None) -> Any:
        hits = [p for p in self._provided[kind] if model_type in p.item.model_types]
        # The named plugin may have a model of somebody else's family.
        hits = [p for p in hits if p.plugin == plugin] or hits
        if len(hits) > 1:
            raise self._ambiguous(f"{KINDS[kind]} of model type {model_type!r}", hits, "MODEL")
        return hits[0].item if hits else None

    def _ambiguous(self, what: str, hits: Sequence[Provided[Any]], asked: str) -> PluginError:
        """Several plugins have `what`; `asked` is what the user writes after the plugin's name to choose one."""
        plugins = list(dict.fromkeys(h.plugin for h in hits))
        owners = " and ".join(self.record(p).title for p in plugins)
        if len(plugins) == 1:
            return PluginError(
                f"{what} is ambiguous: {owners} provides it twice",
                f"fix that plugin, or disable it with VPGT_DISABLE_PLUGINS={plugins[0]}",
            )
        meaning = " (MODEL is the folder, hub id or alias that you gave)" if asked == "MODEL" else ""
        return PluginError(
            f"{what} is ambiguous: {owners} provide it",
            f"write {' or '.join(f'{p}:{asked}' for p in plugins)}{meaning}, or disable one with "
            f"VPGT_DISABLE_PLUGINS={plugins[-1]}",
        )


def _called(provided: list[Provided[Any]], name: str) -> list[Provided[Any]]:
    """All that has this name, or this ``plugin:name``; names are compared without case."""
    wanted = name.lower()
    return [p for p in provided if wanted in (p.name.lower(), f"{p.plugin}:{p.name}".lower())]


def _claims(provided: list[Provided[Any]]) -> list[tuple[str, list[str]]]:
    """Names that are claimed more than once, with the plugins that claim them."""
    claims = defaultdict(list)
    for p in provided:
        claims[p.name.lower()].append(p.plugin)
    return [(name, plugins) for name, plugins in claims.items() if len(plugins) > 1]

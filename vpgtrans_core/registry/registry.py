"""What all plugins together provide, and the look-ups of the core. Loads no torch.

Order is fixed whatever the order of installation. A name that two plugins claim is *ambiguous*: asking for it names
both, and ``plugin:name`` asks for one of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import pluggy

from vpgtrans_core import hookspecs
from vpgtrans_core.cards import (
    API_VERSION,
    Command,
    EmbeddingAccess,
    LLMCard,
    LLMFamily,
    RunEvent,
    SourceCard,
    VPGFamily,
)
from vpgtrans_core.errors import ModelError, PluginError, VpgtError, did_you_mean
from vpgtrans_core.registry.card_checks import card_problems
from vpgtrans_core.registry.loading import HOME, PluginRecord, TooSlow, find_plugins, load_plugin, watched
from vpgtrans_core.registry.switches import Switches, read_switches
from vpgtrans_core.registry.user_cards import read_user_cards, user_card_files

T = TypeVar("T")
_DESCRIBING: dict[str, type] = {
    "vpgt_llm_families": LLMFamily,
    "vpgt_embedding_access": EmbeddingAccess,
    "vpgt_vpg_families": VPGFamily,
    "vpgt_commands": Command,
}
TRACE_WIDTH = 200
"""Characters of an argument or answer that a trace of hooks shows."""
_KIND = {LLMFamily: "llm family", EmbeddingAccess: "embedding access", VPGFamily: "vpg family", Command: "command"}


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


class Registry:
    """All plugins, loaded and asked once. Use `load_registry`."""

    def __init__(self, switches: Switches, files: Sequence[str] = ()) -> None:
        self.switches = switches
        self.records: list[PluginRecord] = []
        self.on_warning: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr)
        """Where a warning of an observer goes; a progress reporter may take it over."""
        self._hooks = pluggy.PluginManager("vpgt")
        self._hooks.add_hookspecs(hookspecs)
        self._provided: dict[type, list[Provided[Any]]] = {kind: [] for kind in _DESCRIBING.values()}
        self._llms: list[Provided[KnownLLM]] = []
        self._sources: list[Provided[KnownSource]] = []
        for found in find_plugins((*switches.plugins, *files)):
            self._admit(found)
        self._add_user_cards()
        self._note_conflicts()

    # What there is

    def llm_families(self) -> list[LLMFamily]:
        return [p.item for p in self._provided[LLMFamily]]

    def vpg_families(self) -> list[VPGFamily]:
        return [p.item for p in self._provided[VPGFamily]]

    def commands(self) -> list[Provided[Command]]:
        return list(self._provided[Command])

    def llms(self) -> list[KnownLLM]:
        """Every language model once, however many names it has."""
        return [p.item for p in self._llms if p.name == p.item.card.alias]

    def sources(self) -> list[KnownSource]:
        return [p.item for p in self._sources]

    # Look-ups

    def llm_card(self, name: str) -> KnownLLM:
        """Return the language model of an alias, ``plugin:alias`` or known hub id.

        Raises:
            ModelError: nobody knows it; says what is near and which broken plugin might have had it.
            PluginError: several plugins do.
        """
        return self._one("language model", name, self._by_name_or_hub(self._llms, name), (p.name for p in self._llms))

    def source(self, name: str) -> KnownSource:
        """Return the source of an alias, ``plugin:alias`` or known hub id, or of its LLM's alias.

        Raises:
            ModelError: nobody knows it. PluginError: several plugins do.
        """
        hits = self._by_name_or_hub(self._sources, name) or self._sources_with_llm(name)
        known = [p.name for p in self._sources] + [p.item.card.llm for p in self._sources if p.item.card.llm]
        return self._one("source VL-LLM", name, hits, known)

    def llm_of(self, source: KnownSource) -> KnownLLM:
        """Return the language model that a source's card names: of several, that of the source's own distribution.

        Raises:
            ModelError: nobody knows it. PluginError: several plugins of other distributions do.
        """
        hits, name = _called(self._llms, source.card.llm or ""), source.card.llm or ""
        home = self._record(source.plugin).distribution
        own = [p for p in hits if self._record(p.plugin).distribution == home]
        return self._one("language model", name, own or hits, (p.name for p in self._llms))

    def knows_llm(self, name: str) -> bool:
        return bool(self._by_name_or_hub(self._llms, name))

    def knows_source(self, name: str) -> bool:
        return bool(self._by_name_or_hub(self._sources, name) or self._sources_with_llm(name))

    def llm_family(self, name: str) -> LLMFamily:
        """Return the LLM family of this name (or ``plugin:name``).

        Raises:
            ModelError: nobody knows it. PluginError: several plugins do.
        """
        provided = self._provided[LLMFamily]
        return self._one("LLM family", name, _called(provided, name), (p.name for p in provided))

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

    def owner(self, family: LLMFamily | VPGFamily) -> str | None:
        """The plugin that provides a family."""
        return next((p.plugin for p in self._provided[type(family)] if p.item is family), None)

    def split_plugin(self, name: str) -> tuple[str | None, str]:
        """Split ``plugin:name`` where the part before the colon is an active plugin; otherwise ``(None, name)``."""
        plugin, colon, rest = name.partition(":")
        known = {r.name for r in self.records if r.status == "active"}
        return (plugin, rest) if colon and rest and plugin in known else (None, name)

    def lost_hint(self) -> str:
        """A hint that names the plugins that are not active: one of them might have had what was looked for."""
        lost = [r for r in self.records if r.status != "active"]
        said = [f"{r.title} is {r.status} and might have it: {r.cause}" for r in lost[:3]]
        more = [f"and {len(lost) - 3} more; see `vpgt list-plugins`"] if len(lost) > 3 else []
        return "; ".join(said + more)

    # Run events and records

    def emit(self, event: RunEvent) -> None:
        """Tell every observer. One that raises is reported once and never stops the run."""
        for record in self.records:
            if record.status == "active" and self._implements(record.name, "vpgt_run_event"):
                try:
                    self._call(record.name, "vpgt_run_event", event=event)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a plugin may even call sys.exit
                    self._report_observer(record, event, error)

    def snapshot(self) -> list[dict[str, str]]:
        """The plugins of this run for its record: name, distribution, version and status."""
        keys = ("name", "distribution", "version", "status")
        return [{key: getattr(r, key) for key in keys} for r in self.records]

    def to_json(self) -> list[dict[str, Any]]:
        """Every record with all it holds."""
        return [asdict(r) for r in self.records]

    def problems(self) -> list[str]:
        """What is wrong with any plugin, in words; a plugin that the user disabled is no problem."""
        found = [f"{r.title} is {r.status}: {r.cause}" for r in self.records if r.status in ("broken", "incompatible")]
        return found + [f"{r.title}: {w}" for r in self.records for w in r.warnings]

    def require_files(self) -> None:
        """Raise when a plugin that the user named as a file is not active: who names one means to use it."""
        for record in self.records:
            if record.origin == "file" and record.status in ("broken", "incompatible"):
                raise PluginError(f"{record.target} is {record.status}: {record.cause}", "correct it or leave it out")

    def add(self, plugin: Any, name: str) -> PluginRecord:
        """Add a plugin that is at hand as a module or object, installed or not; its record says what became of it."""
        record = PluginRecord(name, "given", "", getattr(plugin, "__name__", type(plugin).__name__))
        self.records.append(record)
        if (version := getattr(plugin, "VPGT_API", API_VERSION)) != API_VERSION:
            record.fail("incompatible", "version", f"made for VPGT_API {version!r}; this vpgt has {API_VERSION}")
        elif refusal := self._refusal(record):
            record.fail(*refusal)
        elif self._register(plugin, record):
            self._ask(record)
        return record

    # Loading

    def _admit(self, found: Any) -> None:
        record = found.record
        self.records.append(record)
        if record.status != "active":
            return
        if refusal := self._refusal(record):
            record.fail(*refusal)
            return
        plugin = load_plugin(found, self.switches.plugin_timeout)
        if plugin is not None and self._register(plugin, record):
            self._ask(record)

    def _refusal(self, record: PluginRecord) -> tuple[Any, str, str] | None:
        if why := self.switches.refusal(record.name, record.distribution):
            return "disabled", "", why
        taken = [r for r in self.records if r.name == record.name and r is not record and r.status == "active"]
        if taken:
            return "incompatible", "register", f"the name {record.name!r} belongs to {taken[0].title}"
        return None

    def _register(self, plugin: Any, record: PluginRecord) -> bool:
        try:
            self._hooks.register(plugin, name=record.name)
            self._refuse_unknown_hooks(plugin)
        except Exception as error:
            if self._hooks.has_plugin(record.name):
                self._hooks.unregister(name=record.name)
            said = str(error).replace("\n", " ") or type(error).__name__
            record.fail("broken", "register", said, error)
            return False
        unmarked = [n for n in _DESCRIBING | {"vpgt_run_event": None} if self._unmarked(plugin, record, n)]
        record.warnings += [f"{n} is not marked with @hookimpl and is not called" for n in unmarked]
        return True

    def _refuse_unknown_hooks(self, plugin: Any) -> None:
        for caller in self._hooks.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                known = [n for n in vars(hookspecs) if n.startswith("vpgt_")]
                guess = did_you_mean(caller.name, known) or f"there are {', '.join(known)}"
                raise PluginError(f"unknown hook {caller.name!r}; {guess}")

    def _unmarked(self, plugin: Any, record: PluginRecord, name: str) -> bool:
        return callable(getattr(plugin, name, None)) and not self._implements(record.name, name)

    def _implements(self, plugin: str, hook: str) -> bool:
        return any(i.plugin_name == plugin for i in getattr(self._hooks.hook, hook).get_hookimpls())

    def _call(self, plugin: str, hook: str, **arguments: Any) -> list[Any]:
        """Call one hook of one plugin."""
        others = [p for name, p in self._hooks.list_name_plugin() if name != plugin and p is not None]
        began = time.perf_counter()
        result = self._hooks.subset_hook_caller(hook, remove_plugins=others)(**arguments)
        if self.switches.trace_hooks:
            took = 1000 * (time.perf_counter() - began)
            said = ", ".join(f"{k}={_shortly(v)}" for k, v in arguments.items())
            answer = f" -> {_shortly(result[0])}" if result else ""
            print(f"hook: {plugin}.{hook}({said}){answer} in {took:.1f} ms", file=sys.stderr)
        return result

    def _ask(self, record: PluginRecord) -> None:
        """Ask a plugin for all it provides; keep nothing of a plugin that answers one hook wrongly."""
        answers: list[tuple[type, Any]] = []
        for hook, kind in _DESCRIBING.items():
            if not self._implements(record.name, hook):
                continue
            try:
                with watched(record, self.switches.plugin_timeout, "asked"):
                    results = self._call(record.name, hook)
                problems = [p for items in results for p in _answer_problems(items, kind)]
            except KeyboardInterrupt:
                raise
            except TooSlow as slow:
                record.fail("broken", "hooks", f"{hook} gave no answer {slow}")
                return
            except BaseException as error:
                record.fail("broken", "hooks", f"{hook} raised {type(error).__name__}: {error}", error)
                return
            if problems:
                record.fail("broken", "hooks", f"{hook} returned a wrong answer: {'; '.join(problems)}")
                return
            answers += [(kind, item) for items in results for item in items]
        if not answers and not self._implements(record.name, "vpgt_run_event"):
            record.warnings.append("provides nothing")
        for kind, item in answers:
            self._keep(record, kind, item)

    def _keep(self, record: PluginRecord, kind: type, item: Any) -> None:
        name = item.name if hasattr(item, "name") else " ".join(item.model_types)
        record.provides.append(f"{_KIND[kind]} {name}")
        self._provided[kind].append(Provided(name, item, record.name))
        if kind is LLMFamily:
            for card in item.cards:
                self._keep_llm(record, card, item)
        if kind is VPGFamily:
            for source in item.sources:
                self._keep_source(record, source, item)

    def _keep_llm(self, record: PluginRecord, card: LLMCard, family: LLMFamily) -> None:
        known = KnownLLM(card, family, record.name)
        for name in (card.alias, *card.also):
            record.provides.append(f"llm {name}")
            self._llms.append(Provided(name, known, record.name))

    def _keep_source(self, record: PluginRecord, card: SourceCard, family: VPGFamily) -> None:
        record.provides.append(f"source {card.alias}")
        self._sources.append(Provided(card.alias, KnownSource(card, family, record.name), record.name))

    def _add_user_cards(self) -> None:
        """Models as data alone: the user's card files, for families that exist."""
        for path in user_card_files(self.switches.folder):
            record = PluginRecord(path.name, "user's config", "", str(path), origin="cards")
            self.records.append(record)
            if why := self.switches.refusal(record.name, record.distribution):
                record.fail("disabled", "", why)
                continue
            try:
                llms, sources = read_user_cards(path, self.llm_family, self._vpg_family)
            except VpgtError as error:
                record.fail("broken", "import", str(error), error)
                continue
            for card, family in llms:
                self._keep_llm(record, card, family)
            for source, vpg in sources:
                self._keep_source(record, source, vpg)

    def _vpg_family(self, name: str) -> VPGFamily:
        provided = self._provided[VPGFamily]
        return self._one("VPG family", name, _called(provided, name), (p.name for p in provided))

    def _note_conflicts(self) -> None:
        tables: list[tuple[str, list[Provided[Any]]]] = [("LLM alias", self._llms), ("source alias", self._sources)]
        tables += [(_KIND[kind], provided) for kind, provided in self._provided.items() if kind is not EmbeddingAccess]
        for kind in (LLMFamily, VPGFamily, EmbeddingAccess):
            by_type = [Provided(t, p.item, p.plugin) for p in self._provided[kind] for t in p.item.model_types]
            tables.append((f"{_KIND[kind]} of model type", by_type))
        for what, provided in tables:
            claims = defaultdict(list)
            for p in provided:
                claims[p.name.lower()].append(p.plugin)
            for name, plugins in claims.items():
                if len(plugins) > 1:
                    self._note_conflict(what, name, plugins)

    def _note_conflict(self, what: str, name: str, plugins: list[str]) -> None:
        for plugin in dict.fromkeys(plugins):
            others = [self._record(p).title for p in dict.fromkeys(plugins) if p != plugin] or ["the plugin itself"]
            said = f"{what} {name!r} is ambiguous, {' and '.join(others)} has it too: write '{plugin}:{name}'"
            self._record(plugin).warnings.append(said)

    # Helpers of the look-ups

    def _record(self, plugin: str) -> PluginRecord:
        return next(r for r in self.records if r.name == plugin and r.status == "active")

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
        own = [p for p in first.values() if self._record(p.plugin).distribution == HOME]
        return own or list(first.values())

    def _one(self, what: str, name: str, hits: list[Provided[T]], known: Iterable[str]) -> T:
        if len(hits) == 1:
            return hits[0].item
        if hits:
            self._raise_ambiguous(what, name, hits)
        hints = [did_you_mean(name, known), "`vpgt list-models` shows all that is known", self.lost_hint()]
        raise ModelError(f"unknown {what} {name!r}", "; ".join(filter(None, hints)))

    def _of_type(self, kind: type, model_type: str, plugin: str | None) -> Any:
        hits = [p for p in self._provided[kind] if model_type in p.item.model_types and plugin in (None, p.plugin)]
        if plugin and not hits:  # the named plugin has a model of somebody else's family
            hits = [p for p in self._provided[kind] if model_type in p.item.model_types]
        if len(hits) > 1:
            self._raise_ambiguous(f"{_KIND[kind]} of model type", model_type, hits)
        return hits[0].item if hits else None

    def _raise_ambiguous(self, what: str, name: str, hits: Sequence[Provided[Any]]) -> None:
        owners = " and ".join(self._record(p).title for p in dict.fromkeys(h.plugin for h in hits))
        ways = " or ".join(f"'{p}:{name}'" for p in dict.fromkeys(h.plugin for h in hits))
        raise PluginError(
            f"{what} {name!r} is ambiguous: it is provided by {owners}",
            f"write {ways}, or disable one with VPGT_DISABLE_PLUGINS",
        )

    def _report_observer(self, record: PluginRecord, event: RunEvent, error: BaseException) -> None:
        said = f"raised {type(error).__name__}: {error} at {event.kind!r}; the run goes on"
        if not any(w.startswith("raised ") for w in record.warnings):
            record.warnings.append(said)
            self.on_warning(f"{record.title} {said}")


def load_registry(files: Sequence[str] = (), environ: Mapping[str, str] = os.environ) -> Registry:
    """Load all plugins: installed ones, the user's and `files`.

    Raises:
        ConfigError: the user's config file or environment cannot be understood. Never because of a plugin.
    """
    return Registry(read_switches(environ), files)


_DEFAULT: list[Registry] = []


def default_registry() -> Registry:
    """The registry of this process, loaded on first use."""
    if not _DEFAULT:
        _DEFAULT.append(load_registry())
    return _DEFAULT[0]


def use_registry(registry: Registry) -> None:
    """Make `registry` the one that `default_registry` gives: the command line's, with the files that it was given."""
    _DEFAULT[:] = [registry]


def _called(provided: list[Provided[Any]], name: str) -> list[Provided[Any]]:
    """All that has this name, or this ``plugin:name``; names are compared without case."""
    wanted = name.lower()
    return [p for p in provided if wanted in (p.name.lower(), f"{p.plugin}:{p.name}".lower())]


def _shortly(value: Any) -> str:
    """An argument or answer of a hook as a trace shows it: many cards would hide the calls."""
    said = repr(value)
    return said if len(said) <= TRACE_WIDTH else f"{said[:TRACE_WIDTH]}..."


def _answer_problems(items: Any, kind: type) -> list[str]:
    if not isinstance(items, (list, tuple)):
        return [f"must be a list of {kind.__name__}, not {type(items).__name__}"]
    wrong = [f"holds a {type(i).__name__} instead of {kind.__name__}" for i in items if not isinstance(i, kind)]
    return wrong or [p for i in items for p in card_problems(i)]

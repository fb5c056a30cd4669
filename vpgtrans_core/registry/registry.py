"""All plugins, loaded and asked once, and the catalogue of what they provide. Loads no torch.

Order is fixed whatever the order of installation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vpgtrans_core.cards import API_VERSION, RunEvent
from vpgtrans_core.errors import PluginError
from vpgtrans_core.registry.asking import ask
from vpgtrans_core.registry.catalogue import Catalogue
from vpgtrans_core.registry.hooks import Hooks
from vpgtrans_core.registry.loading import Found, PluginRecord, find_plugins, load_plugin
from vpgtrans_core.registry.switches import Switches, read_switches
from vpgtrans_core.registry.user_cards import read_user_cards, user_card_files


class Registry(Catalogue):
    """The plugins of this process. Use `load_registry`."""

    def __init__(self, switches: Switches, files: Sequence[str] = ()) -> None:
        super().__init__()
        self.switches = switches
        self.on_warning: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr)
        """Where a warning goes; a progress reporter may take it over."""
        self._warned: set[str] = set()
        self._hooks = Hooks(switches.trace_hooks)
        for found in find_plugins((*switches.plugins, *files)):
            self._load(found)
        self._add_user_cards()
        self.note_conflicts()

    def add(self, plugin: Any, name: str) -> PluginRecord:
        """Add a plugin that is at hand as a module or object, installed or not; its record says what became of it."""
        record = PluginRecord(name, "given", "", getattr(plugin, "__name__", type(plugin).__name__))
        self.records.append(record)
        if (version := getattr(plugin, "VPGT_API", API_VERSION)) != API_VERSION:
            record.fail("incompatible", "version", f"made for VPGT_API {version!r}; this vpgt has {API_VERSION}")
        elif self._may_join(record):
            self._join(plugin, record)
        return record

    def emit(self, event: RunEvent) -> None:
        """Tell every observer. One that raises is reported once and never stops the run."""
        self._hooks.emit(event, self.records, lambda text: self.on_warning(text))

    def warn_once(self, text: str) -> None:
        """Tell the user something, however often it comes up."""
        if text not in self._warned:
            self._warned.add(text)
            self.on_warning(text)

    def snapshot(self) -> list[dict[str, str]]:
        """The plugins of this run for its record: name, distribution, version and status."""
        keys = ("name", "distribution", "version", "status")
        return [{key: getattr(r, key) for key in keys} for r in self.records]

    def to_json(self) -> list[dict[str, Any]]:
        """Every record with all it holds."""
        return [asdict(r) for r in self.records]

    def problems(self) -> list[str]:
        """What is wrong with any plugin, in words; one that the user disabled does not count."""
        problems = [f"{r.title} is {r.status}: {r.cause}" for r in self.records if r.failed]
        return problems + [f"{r.title}: {w}" for r in self.records for w in r.warnings]

    def require_files(self) -> None:
        """Raise when a plugin that the user named as a file is not active: who names one means to use it."""
        for record in self.records:
            if record.origin == "file" and record.failed:
                raise PluginError(f"{record.target} is {record.status}: {record.cause}", "correct it or leave it out")

    def _load(self, found: Found) -> None:
        self.records.append(found.record)
        if found.record.status != "active" or not self._may_join(found.record):
            return
        plugin = load_plugin(found, self.switches.plugin_timeout)
        if plugin is not None:
            self._join(plugin, found.record)

    def _may_join(self, record: PluginRecord) -> bool:
        """Whether the user allows a plugin and its name is free; its record says what is in the way."""
        if why := self.switches.refusal(record.name, record.distribution):
            record.fail("disabled", "", why)
        taken = [r for r in self.records if r.name == record.name and r is not record and r.status == "active"]
        if taken and not why:
            record.fail("incompatible", "register", f"the name {record.name!r} belongs to {taken[0].title}")
        return record.status == "active"

    def _join(self, plugin: Any, record: PluginRecord) -> None:
        if self._hooks.register(plugin, record):
            for kind, item in ask(self._hooks, record, self.switches.plugin_timeout):
                self.keep(record, kind, item)

    def _add_user_cards(self) -> None:
        """Models as data alone: the user's card files, for families that exist."""
        for path in user_card_files(self.switches.folder):
            record = PluginRecord(path.name, "user's config", "", str(path), origin="cards")
            self.records.append(record)
            if not self._may_join(record):
                continue
            try:
                llms, sources = read_user_cards(path, self.llm_family, self.vpg_family)
            except Exception as error:  # whatever is wrong with the file stops no command
                record.fail("broken", "import", str(error), error)
                continue
            for card, family in llms:
                self.keep_llm(record, card, family)
            for source, vpg in sources:
                self.keep_source(record, source, vpg)


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

"""Calling the hooks of one plugin at a time, and telling all of them what happens in a run. Loads no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pluggy

from vpgtrans_core import hookspecs
from vpgtrans_core.cards import Command, EmbeddingAccess, EvalMetric, EvalTask, LLMFamily, RunEvent, VPGFamily
from vpgtrans_core.errors import PluginError, did_you_mean
from vpgtrans_core.registry.loading import PluginRecord

DESCRIBING: dict[str, type] = {
    "vpgt_llm_families": LLMFamily,
    "vpgt_embedding_access": EmbeddingAccess,
    "vpgt_vpg_families": VPGFamily,
    "vpgt_commands": Command,
    "vpgt_eval_tasks": EvalTask,
    "vpgt_eval_metrics": EvalMetric,
}
"""The hooks by which a plugin describes what it provides, each with what it returns a list of."""
EVENT = "vpgt_run_event"
TRACE_WIDTH = 200
"""Characters of an argument or answer that a trace of hooks shows."""


class Hooks:
    """The hooks of all registered plugins. `trace` shows every call on stderr."""

    def __init__(self, trace: bool = False) -> None:
        self.trace = trace
        self._manager = pluggy.PluginManager("vpgt")
        self._manager.add_hookspecs(hookspecs)

    def register(self, plugin: Any, record: PluginRecord) -> bool:
        """Take a plugin's hooks; its record says what is wrong with them. Returns whether they can be called."""
        try:
            self._manager.register(plugin, name=record.name)
            self._refuse_unknown(plugin)
        except Exception as error:
            if self._manager.has_plugin(record.name):
                self._manager.unregister(name=record.name)
            record.fail("broken", "register", str(error).replace("\n", " ") or type(error).__name__, error)
            return False
        unmarked = [n for n in (*DESCRIBING, EVENT) if self._is_unmarked(plugin, record, n)]
        record.warnings += [f"{n} is not marked with @hookimpl and is not called" for n in unmarked]
        return True

    def implements(self, plugin: str, hook: str) -> bool:
        """Whether a plugin has a hook."""
        return any(i.plugin_name == plugin for i in getattr(self._manager.hook, hook).get_hookimpls())

    def call(self, plugin: str, hook: str, **arguments: Any) -> list[Any]:
        """Call one hook of one plugin."""
        others = [p for name, p in self._manager.list_name_plugin() if name != plugin and p is not None]
        began = time.perf_counter()
        result = self._manager.subset_hook_caller(hook, remove_plugins=others)(**arguments)
        if self.trace:
            took = 1000 * (time.perf_counter() - began)
            given = ", ".join(f"{k}={_shortly(v)}" for k, v in arguments.items())
            answer = f" -> {_shortly(result[0])}" if result else ""
            print(f"hook: {plugin}.{hook}({given}){answer} in {took:.1f} ms", file=sys.stderr)
        return result

    def emit(self, event: RunEvent, records: list[PluginRecord], warn: Callable[[str], None]) -> None:
        """Tell every observer. One that raises is reported once and never stops the run."""
        for record in records:
            if record.status == "active" and self.implements(record.name, EVENT):
                try:
                    self.call(record.name, EVENT, event=event)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a plugin may even call sys.exit
                    _report(record, event, error, warn)

    def _refuse_unknown(self, plugin: Any) -> None:
        for caller in self._manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                known = [n for n in vars(hookspecs) if n.startswith("vpgt_")]
                guess = did_you_mean(caller.name, known) or f"the hooks are {', '.join(known)}"
                raise PluginError(f"unknown hook {caller.name!r}; {guess}")

    def _is_unmarked(self, plugin: Any, record: PluginRecord, name: str) -> bool:
        return callable(getattr(plugin, name, None)) and not self.implements(record.name, name)


def _report(record: PluginRecord, event: RunEvent, error: BaseException, warn: Callable[[str], None]) -> None:
    report = f"raised {type(error).__name__}: {error} at {event.kind!r}; the run goes on"
    if not any(w.startswith("raised ") for w in record.warnings):
        record.warnings.append(report)
        warn(f"{record.title} {report}")


def _shortly(value: Any) -> str:
    """An argument or answer of a hook as a trace shows it: many cards would hide the calls."""
    text = repr(value)
    return text if len(text) <= TRACE_WIDTH else f"{text[:TRACE_WIDTH]}..."

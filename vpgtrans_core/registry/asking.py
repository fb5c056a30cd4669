"""Asking a plugin what it provides: all its describing hooks, or nothing of it. Loads no torch."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.registry.card_checks import card_problems
from vpgtrans_core.registry.hooks import DESCRIBING, EVENT, Hooks
from vpgtrans_core.registry.loading import HOME, PluginRecord, TooSlow, watched
from vpgtrans_core.registry.printable import control_problems
from vpgtrans_core.registry.targets import missing_modules


def ask(hooks: Hooks, record: PluginRecord, limit: float) -> list[tuple[type, Any]]:
    """Ask a plugin for all it provides; keep nothing of a plugin that answers one hook wrongly.

    Args:
        limit: seconds that one answer may take (0: no limit).

    Returns:
        kind and item of what it provides; nothing when it failed, and its record says why.
    """
    answers: list[tuple[type, Any]] = []
    for hook, kind in DESCRIBING.items():
        if hooks.implements(record.name, hook):
            answers += [(kind, item) for item in _answer(hooks, record, hook, kind, limit)]
        if record.status != "active":
            return []
    if record.distribution != HOME:  # our own are tested
        record.warnings += [text for _, item in answers for text in missing_modules(item)]
    if not answers and not hooks.implements(record.name, EVENT):
        record.warnings.append("provides nothing")
    return answers


def _answer(hooks: Hooks, record: PluginRecord, hook: str, kind: type, limit: float) -> list[Any]:
    """What one hook returns; on a wrong answer nothing, and the record says why."""
    try:
        with watched(record, limit, "asked"):
            results = hooks.call(record.name, hook)
        problems = [p for items in results for p in _answer_problems(items, kind, record)]
    except KeyboardInterrupt:
        raise
    except TooSlow as slow:
        record.fail("broken", "hooks", f"{hook} gave no answer {slow}")
        return []
    except BaseException as error:  # a plugin may even call sys.exit
        record.fail("broken", "hooks", f"{hook} raised {type(error).__name__}: {error}", error)
        return []
    if problems:
        record.fail("broken", "hooks", f"{hook} returned a wrong answer: {'; '.join(problems)}")
        return []
    return [item for items in results for item in items]


def _answer_problems(items: Any, kind: type, record: PluginRecord) -> list[str]:
    if not isinstance(items, (list, tuple)):
        return [f"must be a list of {kind.__name__}, not {type(items).__name__}"]
    wrong = [f"holds a {type(i).__name__} instead of {kind.__name__}" for i in items if not isinstance(i, kind)]
    if wrong or record.distribution == HOME:  # the tests check our own cards; here it would cost every command 60 ms
        return wrong
    return [p for i in items for p in card_problems(i) + control_problems(i)]

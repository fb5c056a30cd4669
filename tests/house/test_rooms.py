"""The rooms of the core: the data flows one way, and few things lie outside of a room."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from tests.house.sources import CORE, PLUGINS, Import, files, imports, room

TOP = 8
"""How many modules may lie at the top of the core, besides its ``__init__``."""


def _arrows() -> dict[tuple[str, str], list[Import]]:
    """For each pair of rooms, the imports that lead from the first to the second."""
    found: dict[tuple[str, str], list[Import]] = {}
    for path in files(CORE):
        for statement in imports(path):
            pair = room(statement.module), room(statement.target)
            if statement.target.split(".")[0] == "vpgtrans_core" and pair[0] != pair[1]:
                found.setdefault(pair, []).append(statement)
    return found


def _order(arrows) -> list[str]:
    """The rooms, those first that need no other; raises CycleError."""
    needs: dict[str, set[str]] = {}
    for user, used in arrows:
        needs.setdefault(user, set()).add(used)
    return list(TopologicalSorter(needs).static_order())


def test_rooms_import_each_other_in_one_direction():
    arrows = _arrows()
    assert len(arrows) > 50
    try:
        order = _order(arrows)
    except CycleError as error:
        circle = error.args[1]
        pairs = [pair for pair in zip(circle[1:], circle, strict=False) if pair in arrows]
        lines = [f"  {statement}" for pair in pairs for statement in arrows[pair]]
        raise AssertionError("\n".join(["rooms import each other in a circle:", *lines])) from None
    assert order.index("errors") < order.index("run") < order.index("cli")


def test_a_cycle_would_be_seen():
    try:
        _order({("a", "b"), ("b", "c"), ("c", "a")})
    except CycleError:
        return
    raise AssertionError("a circle of three rooms passes")


def test_few_modules_lie_at_the_top():
    top = [path.name for path in CORE.glob("*.py") if path.name != "__init__.py"]
    assert len(top) <= TOP, sorted(top)


def test_plugins_import_the_core_and_never_each_other():
    names = {path.parent.name for path in PLUGINS.glob("*/__init__.py")}
    assert len(names) > 3
    for name in names:
        found = [statement for path in files(PLUGINS / name) for statement in imports(path, PLUGINS)]
        assert any(statement.target.startswith("vpgtrans_core") for statement in found)
        wrong = [statement for statement in found if statement.target.split(".")[0] in names - {name}]
        assert not wrong, "\n".join(map(str, wrong))


def test_the_core_imports_no_plugin_and_nothing_that_is_not_installed():
    others = {path.parent.name for path in PLUGINS.glob("*/__init__.py")} | {"zoo", "tests", "benchmarks", "examples"}
    wrong = [s for path in files(CORE) for s in imports(path) if s.target.split(".")[0] in others]
    assert not wrong, "\n".join(map(str, wrong))

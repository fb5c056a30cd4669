"""Opening the plugin that is to be checked: installed, a module, a folder or a single file. Loads no torch."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpgtrans_core.cards import LLMFamily, VPGFamily
from vpgtrans_core.errors import PluginError, did_you_mean
from vpgtrans_core.registry import Registry, load_registry
from vpgtrans_core.registry.loading import PluginRecord
from vpgtrans_core.testing.checks import CheckFailed, expect

HEAVY = ("torch", "transformers", "tensorflow", "jax")
DECLARATION = "VPGT_CONFORMANCE"
"""The plugin's attribute that tells the kit of its families: ``{"NAME": {"config": {...}, "unsupported": {...}}}``."""

DECLARED = ("config", "unsupported")
"""What it may say of each."""


@dataclass(frozen=True)
class Opened:
    """A plugin and the registry that it is in."""

    given: str
    record: PluginRecord
    registry: Registry

    @property
    def llm_families(self) -> list[LLMFamily]:
        return [f for f in self.registry.llm_families() if self.registry.owner(f) == self.record.name]

    @property
    def vpg_families(self) -> list[VPGFamily]:
        return [f for f in self.registry.vpg_families() if self.registry.owner(f) == self.record.name]

    def declared(self, family: str) -> Mapping[str, Any]:
        """What the plugin's module tells the kit of a family; empty when it tells nothing."""
        return self._declarations().get(family, {})

    @property
    def anywhere(self) -> str:
        """What was given, for a process in another folder."""
        return str(Path(self.given).resolve()) if Path(self.given).exists() else self.given

    def named(self, folder: Path | str) -> str:
        """A model's folder as the plugin reads it: another plugin may have the same model type."""
        return f"{self.record.name}:{folder}"

    def unknown_declarations(self) -> list[str]:
        """What the plugin's module tells the kit in vain, in words: families that it does not have, and keys that
        nobody reads."""
        families = [f.name for f in self.llm_families] + [f.name for f in self.vpg_families]
        problems = []
        for family, declared in self._declarations().items():
            if family not in families:
                guess = did_you_mean(family, families, 1) or f"it has {', '.join(families)}"
                problems.append(f"the plugin has no family {family!r} ({guess})")
            for key in sorted(set(declared) - set(DECLARED)):
                guess = did_you_mean(key, DECLARED, 1) or f"there are {', '.join(DECLARED)}"
                problems.append(f"{family!r} declares {key!r}, which is not known ({guess})")
        return problems

    def _declarations(self) -> dict[str, Mapping[str, Any]]:
        module = sys.modules.get(self.record.name) or sys.modules.get(self.record.target.partition(":")[0])
        return dict(getattr(module, DECLARATION, {}))


def open_plugin(given: str) -> Opened:
    """Open a plugin by its name, its importable module, its package's or project's folder or its single file.

    Raises:
        PluginError: there is none.
    """
    path = Path(given)
    if given.endswith(".py"):
        registry, name = load_registry((given,)), path.stem
        return Opened(given, _record(registry, name), registry)
    if (path / "pyproject.toml").is_file():
        path = _package(path)
    registry, name = load_registry(), path.resolve().name if path.is_dir() else given
    if any(r.name == name for r in registry.records):
        return Opened(given, _record(registry, name), registry)
    if (path / "__init__.py").is_file() and str(path.resolve().parent) not in sys.path:
        sys.path.insert(0, str(path.resolve().parent))
    return Opened(given, registry.add(_module(name, registry), name), registry)


def _record(registry: Registry, name: str) -> PluginRecord:
    return [r for r in registry.records if r.name == name][-1]


def _package(project: Path) -> Path:
    """The one package in a project's folder, as ``vpgt new-plugin`` makes them, or in its ``src``."""
    found = [f.parent for top in (project, project / "src") for f in top.glob("*/__init__.py")]
    packages = [p for p in found if p.name != "tests"]
    if len(packages) != 1:
        names = ", ".join(p.name for p in packages) or "none"
        raise PluginError(f"which package of {project} is the plugin? It has {names}", "give the package's folder")
    return packages[0]


def _module(name: str, registry: Registry) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        guess = did_you_mean(name, [r.name for r in registry.records])
        hint = "give a name from `vpgt list-plugins`, a module, a package's folder or a .py file"
        raise PluginError(
            f"unknown plugin {name!r}: it is not installed, and no module of this name can be imported: {error}",
            "; ".join(filter(None, (guess, hint))),
        ) from error


def expect_active(opened: Opened) -> None:
    """Raise `CheckFailed` with the registry's own cause unless the plugin is active."""
    record = opened.record
    expect(record.status == "active", f"the plugin is {record.verdict}", record.target)
    unmarked = [w for w in record.warnings if "hookimpl" in w]
    expect(not unmarked, "; ".join(unmarked), record.target)


def expect_declared_rightly(opened: Opened) -> None:
    """Raise `CheckFailed` when the plugin's module tells the kit something that the kit does not read."""
    problems = opened.unknown_declarations()
    expect(not problems, "; ".join(problems), DECLARATION)


def expect_no_heavy_import(opened: Opened) -> None:
    """Open the plugin and ask its hooks in a fresh process; raise `CheckFailed` when a heavy library was imported."""
    code = (
        "import sys; from vpgtrans_core.testing.opening import HEAVY, open_plugin; "
        f"open_plugin({opened.given!r}); print('loaded:', *[m for m in HEAVY if m in sys.modules])"
    )
    heavy = in_new_process(code, Path.cwd(), VPGT_ALLOW_PLUGINS=opened.record.name).splitlines()[-1].split()[1:]
    expect(not heavy, f"the plugin's module imports {', '.join(heavy)}, so that every command of vpgt would")


def in_new_process(code: str, folder: Path, **variables: str) -> str:
    """Run Python code in a process of its own, in `folder` and offline; return what it prints.

    Raises:
        CheckFailed: it fails or prints nothing.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)}
    environment |= {"HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode or not done.stdout.strip():
        raise CheckFailed(f"it fails in a new process: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()

"""What a family under test is, of either kind: the plugin, the family, what the plugin declares, a folder for it."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from vpgtrans_core.cards import LLMFamily, VPGFamily
from vpgtrans_core.testing.checks import CheckFailed
from vpgtrans_core.testing.opening import Opened, open_plugin

Family = TypeVar("Family", LLMFamily, VPGFamily)


class Subject(ABC, Generic[Family]):
    """One family of a plugin.

    Args:
        opened: the plugin.
        family: the family's name; None where the plugin has one.
        config: sizes of the tiny model; default the plugin's declaration.
        unsupported: names of optional checks and why the family cannot pass them; default the declaration.
    """

    kind: ClassVar[str]
    """``LLM`` or ``VPG``."""

    def __init__(
        self,
        opened: Opened,
        family: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        unsupported: dict[str, str] | None = None,
    ) -> None:
        self.opened = opened
        self.wanted = family
        families = self.families()
        declared = opened.declared(family or (families[0].name if families else ""))
        self.config: dict[str, Any] | None = declared.get("config") if config is None else config
        self.unsupported = dict(declared.get("unsupported", {})) if unsupported is None else unsupported
        self._temporary = tempfile.TemporaryDirectory(prefix="vpgt-kit-")
        self.home = Path(self._temporary.name)

    @classmethod
    def open(cls, plugin: str, family: str | None = None, **options: Any) -> Self:
        return cls(open_plugin(plugin), family, **options)

    def empty(self, name: str) -> Path:
        """An empty folder of this name; what an earlier check left in it when it failed is gone."""
        folder = self.home / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def close(self) -> None:
        self._temporary.cleanup()

    @abstractmethod
    def families(self) -> list[Family]:
        """The plugin's families of this kind."""

    @property
    def title(self) -> str:
        families = self.families()
        return self.wanted or (families[0].name if families else self.opened.given)

    @cached_property
    def family(self) -> Family:
        families = [f for f in self.families() if self.wanted in (None, f.name)]
        if len(families) != 1:
            names = ", ".join(f.name for f in self.families()) or "none"
            hook = f"the hook vpgt_{self.kind.lower()}_families"
            raise CheckFailed(f"which {self.kind} family is meant? The plugin has {names}", hook)
        return families[0]

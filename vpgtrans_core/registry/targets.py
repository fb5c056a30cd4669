"""Whether the modules that a plugin names are there, without importing them. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.machinery import ModuleSpec
from typing import Any

NAMING = ("adapter", "reader", "target", "classes")
"""Fields of descriptions that name code by its module."""


def missing_modules(item: Any) -> Iterator[str]:
    """What is wrong with the modules that a description names, in words."""
    for field in fields(item):
        module = str(getattr(item, field.name)).partition(":")[0] if field.name in NAMING else ""
        if module and not _is_there(module):
            title = getattr(item, "name", None) or " ".join(getattr(item, "model_types", ()))
            yield f"the {field.name} of {title} cannot be loaded: there is no module {module!r}"


def _is_there(module: str) -> bool:
    """Whether a module could be imported; the packages that it lies in are looked at, and not imported."""
    if module in sys.modules:
        return True
    place: Sequence[str] | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        if (spec := _spec(name, place)) is None:
            return False
        place = spec.submodule_search_locations
    return True


def _spec(name: str, place: Sequence[str] | None) -> ModuleSpec | None:
    """What the import machinery finds under a name in the folders of its package."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, place, None)) is not None:
            return spec
    return None

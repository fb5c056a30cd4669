"""The plugins that somebody needs to use a finished model: those of its VPG and of its LLM that vpgt does not ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.registry import Registry
from vpgtrans_core.registry.loading import HOME


def needed_plugins(
    registry: Registry, vpg: str | None, llm: str | None, family: LLMFamily | None
) -> list[dict[str, str]]:
    """The plugins named `vpg` and `llm`, if they are not vpgt's own, for run.json and the model card.

    Args:
        family: the LLM's, which says whether transformers has its classes.

    Returns:
        of each ``name``; ``get``, a command with it, empty where there is none; and ``classes``, the module that
        registers the LLM's classes with transformers, empty where none has to.
    """
    needed = []
    for name in dict.fromkeys(name for name in (vpg, llm) if name):
        record = registry.record(name)
        if record.distribution == HOME:
            continue
        get = f"vpgt --plugin {Path(record.target).name} ..." if record.origin == "file" else ""
        if record.origin == "distribution" and record.version:  # one that a program added has none
            get = f"pip install {record.distribution}=={record.version}"
        needed.append({"name": name, "get": get, "classes": family.classes if family and name == llm else ""})
    return needed


def plugins_text(needed: Sequence[Mapping[str, str]], whole: bool) -> str:
    """What a model card says of the plugins that the model needs; empty where it needs none."""
    lines = []
    for plugin in needed:
        who = "vpgt and transformers need" if whole and plugin["classes"] else "vpgt needs"
        lines.append(f"{who} the plugin `{plugin['name']}`" + (f": `{plugin['get']}`" if plugin["get"] else "") + ".\n")
    return "".join(lines)


def with_classes(needed: Sequence[Mapping[str, str]], code: str) -> str:
    """Python that loads a whole model, which first lets transformers know the classes that it does not have."""
    modules = [plugin["classes"] for plugin in needed if plugin["classes"]]
    imports = "".join(f"import {module}  # the language model's classes\n" for module in modules)
    return imports + code if code else ""

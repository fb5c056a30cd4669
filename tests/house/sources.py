"""The repository's Python files, read as syntax trees: which file imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CORE = ROOT / "vpgtrans_core"
PLUGINS = ROOT / "plugins"


class Import(NamedTuple):
    """One import statement: the module that has it, its line, and the module it names."""

    module: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_name(path: Path, base: Path = ROOT) -> str:
    """``vpgtrans_core/llm/loss.py`` -> ``vpgtrans_core.llm.loss``."""
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, base: Path = ROOT) -> Iterator[Import]:
    """Every import that can run, those inside functions too; what only a type checker reads is left out."""
    module, nodes = module_name(path, base), [*ast.iter_child_nodes(tree(path))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse
        elif isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (Import(module, node.lineno, name) for name in _targets(node))
        else:
            nodes += ast.iter_child_nodes(node)


def _targets(node: ast.ImportFrom) -> list[str]:
    """``from vpgtrans_core import data`` names a room; deeper imports name their module."""
    assert node.module
    if "." in node.module:
        return [node.module]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def room(module: str) -> str:
    """The room of a module of the core: ``vpgtrans_core.llm.loss`` -> ``llm``."""
    return module.split(".")[1] if "." in module else module

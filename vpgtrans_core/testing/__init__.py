"""The conformance kit for plugin authors: subclass one class, set one attribute, inherit every check.

::

    from vpgtrans_core.testing import LLMConformance

    class TestMyLLM(LLMConformance):
        plugin = "my_llm"

``vpgt check-plugin my_llm`` runs the same checks and prints a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpgtrans_core.testing.conformance import LLMConformance, VPGConformance

__all__ = ["LLMConformance", "VPGConformance"]


def __getattr__(name: str) -> Any:
    """Import on use: the check that a plugin loads no torch needs parts of this package without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vpgtrans_core.testing import conformance

    return getattr(conformance, name)

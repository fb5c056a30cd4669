"""Finds, loads and checks plugins, and looks up models and families by name. Loads no torch."""

from vpgtrans_core.registry.catalogue import KnownLLM, KnownSource, Provided
from vpgtrans_core.registry.registry import Registry, default_registry, load_registry, use_registry

__all__ = ["KnownLLM", "KnownSource", "Provided", "Registry", "default_registry", "load_registry", "use_registry"]

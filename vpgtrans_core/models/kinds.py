"""What kind of language model a config describes: a plugin's family, or the fallback's. Loads no torch."""

from __future__ import annotations

from typing import Any

from vpgtrans_core.cards import LLMFamily
from vpgtrans_core.errors import ModelError

_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def fallback_of(config: dict[str, Any]) -> LLMFamily:
    """The family of a model that no plugin knows: transformers' own, or code that the user trusts.

    Raises:
        ModelError: transformers knows no language model of that type, or the config names another kind of model.
    """
    from vpgtrans_core.llm.fallback import fallback_family

    _refuse_headless(config)
    kind = str(config.get("model_type"))
    if needs_code(config):
        return LLMFamily(name=kind, model_types=(kind,), adapter="vpgtrans_core.llm.any_causal:AnyCausalLM")
    return fallback_family(kind)


def needs_code(config: dict[str, Any]) -> bool:
    """Whether a model can only be run by code that comes with it."""
    return "auto_map" in config and not _is_native(str(config.get("model_type")))


def _is_native(model_type: str) -> bool:
    """Whether transformers itself has a language model of this type."""
    from vpgtrans_core.llm.fallback import fallback_family

    try:
        return bool(fallback_family(model_type))
    except ModelError:
        return False


def _refuse_headless(config: dict[str, Any]) -> None:
    """Refuse a model that says of itself that it is something else than a language model with its head."""
    if needs_code(config) and any("ForCausalLM" in str(name) for name in config["auto_map"]):
        return
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and not any(str(a).endswith(_HEADS) for a in architectures):
        raise ModelError(f"it is a {architectures[0]} (model_type {config.get('model_type')!r})")

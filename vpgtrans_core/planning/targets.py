"""Which LLMs can stand in the folders that a VPG family writes: tried at tiny size, type by type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vpgtrans_core.cards import know_classes, load
from vpgtrans_core.errors import ModelError
from vpgtrans_core.registry import Registry

PROBED_FACTOR = 0.5
"""The value given to a factor on the logits, whose usual default of 1 would hide what becomes of it."""


@dataclass(frozen=True)
class WholeTarget:
    """Whether a family's folder can hold LLMs of a model type.

    Attributes:
        verdict: ``exact``; ``mended``: exact, because a factor on the logits is written into the head; ``refused``.
        why: of a refusal.
    """

    family: str
    model_type: str
    verdict: str
    why: str = ""


def whole_targets(registry: Registry, family: str, model_types: Sequence[str] = ()) -> Iterator[WholeTarget]:
    """Try model types in the folder of a VPG family, in order.

    Args:
        model_types: transformers' names; empty for every causal language model that it has.

    Raises:
        ModelError: there is no such family or type, or its folder holds each LLM in a class of its own, so that there
            is nothing to try.
    """
    from transformers.models.auto import modeling_auto

    from vpgtrans_core.vpg.adapter import VPG

    known = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    families = {f.name: f for f in registry.vpg_families()}
    if family not in families:
        raise ModelError(f"there is no VPG family {family!r}", f"there are {', '.join(sorted(families))}")
    adapter = load(families[family].adapter)
    if adapter.why_not_whole.__func__ is VPG.why_not_whole.__func__:  # type: ignore[attr-defined]
        raise ModelError(
            f"the folders of the family {family!r} are not tried: their class holds an LLM as its own class computes "
            "it, or there is no such folder"
        )
    for own in registry.llm_families():
        if set(own.model_types) & set(model_types):
            know_classes(own)
    for model_type in model_types or sorted(known):
        if model_types and not _is_known(model_type):
            raise ModelError(f"transformers does not know the model type {model_type!r}", "check its spelling")
        yield _tried(adapter, family, model_type)


def _is_known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _tried(adapter: Any, family: str, model_type: str) -> WholeTarget:
    from transformers import AutoConfig

    from vpgtrans_core.llm.empty import silence
    from vpgtrans_core.vpg.whole import LOGIT_FACTORS

    try:
        with silence():
            config = AutoConfig.for_model(model_type)
            factors = [name for name in LOGIT_FACTORS if getattr(config, name, None) is not None]
            for name in factors:
                setattr(config, name, PROBED_FACTOR)
            why = adapter.why_not_whole(config)
    except Exception as error:  # transformers' configs fail in as many ways as there are
        return WholeTarget(
            family, model_type, "refused", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        )
    return WholeTarget(family, model_type, "refused" if why else "mended" if factors else "exact", why or "")

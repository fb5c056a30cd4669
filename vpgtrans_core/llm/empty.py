"""A language model without weights, from its config; and transformers without its advice."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpgtrans_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from vpgtrans_core.weights import Weights

PACKED = 16
"""Most parameters that quantised checkpoints pack into one stored number (eight of 4 bits in 32), and as much again."""


def config_of(values: dict[str, Any]) -> PreTrainedConfig:
    """The transformers config of the content of a ``config.json``.

    Raises:
        ModelError: transformers does not know its model type, or refuses a value.
    """
    from transformers import CONFIG_MAPPING

    model_type = str(values.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"transformers does not know the model type {model_type!r}",
            "check the folder's config.json, or install a transformers release that knows it",
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(values))
    except Exception as error:  # transformers checks its configs with many kinds of error
        raise ModelError(f"the config of a {model_type} model cannot be read: {error}") from error


def empty_model(
    config: PreTrainedConfig, *, attention: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The LLM of a config on the meta device: modules and shapes without weights.

    Args:
        attention: transformers' name of the attention kernel; None for its own choice.
        trust_remote_code: whether code that comes with the config may run.

    Raises:
        ModelError: transformers has no language model for the config.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kernel = {"attn_implementation": attention} if attention else {}
    try:
        with torch.device("meta"), silence():
            return kind.from_config(config, trust_remote_code=trust_remote_code, **kernel)
    except Exception as error:  # a config with impossible sizes fails wherever the model uses them
        raise ModelError(
            f"transformers cannot build a language model from this {config.model_type} config: {error}",
            "correct the model's config.json, or download it again",
        ) from error


def check_size(folder: str | Path, config: PreTrainedConfig, weights: Weights) -> None:
    """Refuse a config of a model far larger than its weights, before memory for it is taken.

    Raises:
        ModelError: the config describes more than `PACKED` times as many numbers as the files hold.
    """
    stored = sum(math.prod(weights.shape(name)) for name in weights)
    described = sum(p.numel() for p in empty_model(config).parameters())
    if described > PACKED * max(stored, 1):
        raise ModelError(
            f"the config.json in {folder} describes a model of {described:,} parameters, but its weights hold "
            f"{stored:,}",
            "the folder may hold another model's config: download both again",
        )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep transformers from reporting on what it builds and loads."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)

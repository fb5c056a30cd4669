"""Loading of a frozen transformers model and its tokenizer from a folder, strictly."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vpgtrans_core.errors import ModelError
from vpgtrans_core.llm.embeddings import folder_config, text_config
from vpgtrans_core.llm.empty import check_size, empty_model
from vpgtrans_core.llm.placing import Placement, state_of
from vpgtrans_core.llm.shards import Shards, own_part
from vpgtrans_core.weights import Weights, check_finite, mismatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BUFFERS = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids)$")
"""Buffers that old checkpoints carry and today's classes compute."""


def load_model(
    folder: str | Path,
    auto_class: Any,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: str | None = None,
    keep_precise: tuple[str, ...] | None = None,
    trust_remote_code: bool = False,
    placement: Placement | None = None,
    shards: Shards | None = None,
) -> PreTrainedModel:
    """Load a model in evaluation mode; what its checkpoint lacks or has too much is an error.

    Args:
        folder: a transformers folder.
        auto_class: the Auto class that makes the model.
        dtype: the precision of the weights (of what is not quantised).
        device: where they go.
        quantization: None, ``"8bit"`` or ``"4bit"``.
        keep_precise: names of linear layers that must not be quantised; None for transformers' own choice.
        trust_remote_code: whether code in the folder may run.
        placement: spreads the model over several devices; None puts it on `device`.
        shards: of which this process reads its own; None for the whole model.

    Raises:
        ModelError: there is no model of that kind in the folder, its tensors do not fit its config, a weight is not
            finite, or quantisation cannot work here.
    """
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code, "weights_only": True}
    options["ignore_mismatched_sizes"] = True  # they are reported, and refused below with all the others
    options |= quantized_options(quantization, dtype, device, keep_precise)
    if torch.device(device).type == "cuda" and shards is None:
        options["device_map"] = {"": device}  # tensor by tensor: no process holds the whole LLM in the host's memory
    if placement is not None:
        options |= placement.options
    if Path(folder).is_dir():
        weights = Weights(folder)  # the gate looks at names, headers and pickles before anything is built from them
        for name in weights if quantization else ():  # what is quantised cannot be checked any more
            check_finite({name: weights.read(name)}, folder)
        if not trust_remote_code:
            check_size(folder, text_config(folder), weights)
            if placement is not None and not quantization:
                placement.check_size(empty_model(text_config(folder)), dtype)
    if shards is not None:
        auto_class = shards.reader(folder_config(folder, trust_remote_code=trust_remote_code), trust_remote_code)
    try:
        model, report = auto_class.from_pretrained(str(folder), output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"cannot load a language model from {folder}: {_first_lines(error)}",
            "the folder must hold config.json, weights and a tokenizer, as transformers' save_pretrained writes them",
        ) from error
    _check_report(folder, report)
    if placement is not None:
        placement.check_map(model)
    if quantization:
        keep_differentiable(model)
    else:
        check_finite(state_of(model) if placement else {n: own_part(p) for n, p in model.named_parameters()}, folder)
        model = model if placement is not None else model.to(device)
    return model.eval()


def load_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer.

    Raises:
        ModelError: there is none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizer files fail in as many ways as there are formats
        raise ModelError(
            f"cannot load a tokenizer from {folder}: {_first_lines(error)}",
            "copy the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder",
        ) from error


def _first_lines(error: Exception, limit: int = 600) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text[:limit]}"


def _check_report(folder: str | Path, report: dict[str, Any]) -> None:
    kinds = {
        "missing": sorted(report.get("missing_keys", ())),
        "unexpected": sorted(k for k in report.get("unexpected_keys", ()) if not _BUFFERS.search(k)),
        "misshapen": sorted(map(_shapes, report.get("mismatched_keys", ()))),
    }
    if any(kinds.values()):
        raise ModelError(
            mismatch(str(folder), **kinds),
            "the weights may belong to another model than config.json describes, or may be incomplete",
        )


def _shapes(mismatch: Any) -> str:
    """A name with its shapes, from what transformers reports: ``(name, shape in the file, shape in the model)``."""
    if isinstance(mismatch, str):
        return mismatch
    name, found, wanted = mismatch
    return f"{name} {tuple(found)}, not {tuple(wanted)}"


def quantized_options(
    kind: str | None, dtype: torch.dtype, device: torch.device | str, keep_precise: tuple[str, ...] | None
) -> dict[str, Any]:
    """What `from_pretrained` is told of a quantised LLM; nothing of one that is not.

    Raises:
        ModelError: it cannot be quantised here.
    """
    if not kind:
        return {}
    config = _quantization(kind, dtype, list(keep_precise) if keep_precise else None)
    return {"quantization_config": config, "device_map": {"": device}}


def _quantization(kind: str, dtype: torch.dtype, keep_precise: list[str] | None) -> Any:
    """transformers' configuration for bitsandbytes, which has kernels for CUDA and for CPUs.

    Raises:
        ModelError: the package is not installed, or does not work here.
    """
    from transformers import BitsAndBytesConfig

    if kind not in ("8bit", "4bit"):
        raise ModelError(f"unknown quantisation {kind!r}", "use 8bit or 4bit")
    _check_bitsandbytes(kind)
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep_precise)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=keep_precise,
    )


def _check_bitsandbytes(kind: str) -> None:
    import importlib
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{kind} quantisation needs the bitsandbytes package",
            "install it: pip install 'vpgt[quantization]'; or leave --quantization out",
        )
    # It says at every product of matrices that it casts to half precision, which is what was asked for.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    try:
        importlib.import_module("bitsandbytes")
    except Exception as error:  # a build for another torch or system fails in its own ways
        raise ModelError(
            f"{kind} quantisation is not available here, because bitsandbytes cannot be loaded: {_first_lines(error)}",
            "leave --quantization out: the LLM is then loaded in its half precision or in float32",
        ) from error


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights for inference.

    On some CPUs it does so at the first forward pass without gradients, for a kernel that has no backward pass: from
    then on nothing would flow to the soft prompts.
    """
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False

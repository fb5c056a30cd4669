"""What a run will download: models of the hub that are not in its cache."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from vpgtrans_core.models.hub import wanted_files

_WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
FULL_PRECISION = 4
"""Bytes per parameter of a checkpoint whose size the hub did not state: an upper bound."""


@dataclass(frozen=True)
class Download:
    """One model that comes from the hub.

    `size` is in bytes. If `exact`, the hub states it; else it is an upper bound of four bytes per parameter.
    """

    hub_id: str
    size: int
    exact: bool


def download_of(hub_id: str, parameters: int, revision: str | None = None, *, offline: bool = False) -> Download | None:
    """The download that a model of the hub needs, or None if it is in the cache already."""
    if _is_cached(hub_id, revision):
        return None
    size = None if offline else _stated_size(hub_id, revision)
    return Download(hub_id, FULL_PRECISION * parameters if size is None else size, exact=size is not None)


def _is_cached(hub_id: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(hub_id, name, revision=revision), str) for name in _WEIGHT_NAMES)


def _stated_size(hub_id: str, revision: str | None) -> int | None:
    """Bytes of the files that would be downloaded, None if the hub does not state them."""
    from huggingface_hub import HfApi

    try:
        files: Any = HfApi().model_info(hub_id, revision=revision, files_metadata=True, timeout=5).siblings or ()
    except Exception:  # no network, no such model, no access: the run itself will say which
        return None
    wanted = wanted_files([f.rfilename for f in files])
    return sum(f.size or 0 for f in files if "/" not in f.rfilename and any(fnmatch(f.rfilename, w) for w in wanted))

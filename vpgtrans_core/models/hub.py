"""Models from the Hugging Face hub: configs alone for planning, whole folders for work. Pickles only where a model has
nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""``organisation/model``, with ``@revision`` where one is wanted."""
_SMALL = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
SECONDS = 20.0
"""How long the hub may take to say whether it knows a model."""
_SUBFOLDERS = ("*/*",)
_SAFE_INDEX, _SAFE = "model.safetensors.index.json", "model.safetensors"
_PICKLE_INDEX, _PICKLE = "pytorch_model.bin.index.json", "pytorch_model.bin"


class HubUnreachable(ModelError):
    """The hub does not answer, or may not be asked, and the model is not in its cache."""


def split_hub_id(name: str) -> tuple[str, str | None]:
    """Split ``organisation/model@revision``."""
    hub_id, _, revision = name.partition("@")
    return hub_id, revision or None


def hub_config(hub_id: str, revision: str | None = None, *, offline: bool = False) -> tuple[dict[str, Any], str | None]:
    """Return a model's ``config.json`` and its revision (a commit), without its weights.

    Raises:
        HubUnreachable: no network and not in the cache. ModelError: there is no such model, or it may not be read.
    """
    from huggingface_hub import hf_hub_download

    from vpgtrans_core.weights import read_json

    def download(info: Any) -> str:
        return _ask(hub_id, hf_hub_download, filename="config.json", revision=info.sha)

    def cached() -> str:
        return _ask(hub_id, hf_hub_download, filename="config.json", revision=revision, local_files_only=True)

    path = Path(_newest(hub_id, revision, offline, download, cached))
    return read_json(path), path.parent.name


def hub_folder(hub_id: str, revision: str | None = None, *, offline: bool = False) -> Path:
    """Download a model (or find it in the hub's cache) and return its folder, named by its revision.

    Raises:
        HubUnreachable: no network and not in the cache. ModelError: there is no such model, or it may not be read.
    """
    from huggingface_hub import snapshot_download

    def download(info: Any) -> str:
        wanted = wanted_files([s.rfilename for s in info.siblings or ()])
        return _ask(
            hub_id, snapshot_download, revision=info.sha, allow_patterns=wanted, ignore_patterns=list(_SUBFOLDERS)
        )

    def cached() -> str:
        return _ask(hub_id, snapshot_download, revision=revision, local_files_only=True)

    return Path(_newest(hub_id, revision, offline, download, cached))


def _newest(
    hub_id: str, revision: str | None, offline: bool, download: Callable[[Any], str], cached: Callable[[], str]
) -> str:
    """What the hub has, or what the cache has when the hub does not answer.

    The hub is asked for the model's description first: unlike a download, that fails at once without network.
    """
    from huggingface_hub import HfApi

    if offline:
        return cached()
    try:
        info = _ask(hub_id, HfApi().model_info, revision=revision, timeout=SECONDS)
    except HubUnreachable as unreachable:
        try:
            return cached()
        except HubUnreachable:
            raise unreachable from None
    return download(info)


def wanted_files(names: list[str]) -> list[str]:
    """Patterns of the files to download: config and tokenizer, and one set of weights, safetensors where there are."""
    if _SAFE_INDEX in names:
        return [*_SMALL, "model-*.safetensors"]
    if _SAFE in names:
        return [*_SMALL, _SAFE]
    if _PICKLE_INDEX in names:
        return [*_SMALL, "pytorch_model-*.bin"]
    if _PICKLE in names:
        return [*_SMALL, _PICKLE]
    return [*_SMALL, "*.safetensors"]


def _ask(hub_id: str, what: Any, **arguments: Any) -> Any:
    """Call the hub and say its refusals in our words."""
    from huggingface_hub import errors

    try:
        return what(hub_id, **arguments)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{hub_id} is gated: its owner must grant access",
            f"accept its licence at https://huggingface.co/{hub_id} and log in with `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{hub_id} has no revision {arguments.get('revision')!r}", "leave @revision out") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {hub_id!r}, or it is private",
            "check its name; log in with `hf auth login` if it is private",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        asked = not arguments.get("local_files_only")
        raise _unreachable(hub_id, str(error) if asked else "the hub may not be asked (--offline)") from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"{hub_id} on the hub has no config.json: it is no transformers model") from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise ModelError(f"the hub refuses {hub_id!r}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # httpx, requests and OS errors, as the hub's client and its version have it
        raise _unreachable(hub_id, f"{type(error).__name__}: {error}") from error


def _unreachable(hub_id: str, why: str) -> HubUnreachable:
    return HubUnreachable(
        f"cannot get {hub_id} from the hub and it is not in the cache: {why.splitlines()[0][:200]}",
        f"where there is network run `hf download {hub_id} --local-dir FOLDER`, copy FOLDER here and give its path; "
        "a mirror is named by HF_ENDPOINT, a cache by HF_HOME",
    )

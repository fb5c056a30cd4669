"""Models from the Hugging Face hub: configs alone for planning, whole folders for work. Pickles only where a model has
nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ModelError
from vpgtrans_core.files import read_json
from vpgtrans_core.models.refusals import ADAPTER, hub_adapter

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""``organisation/model``, with ``@revision`` where one is wanted."""
_SMALL = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
SECONDS = 20.0
"""How long the hub may take to say whether it knows a model."""
_SUBFOLDERS = ("*/*",)
_SAFE_INDEX, _SAFE = "model.safetensors.index.json", "model.safetensors"
_PICKLE_INDEX, _PICKLE = "pytorch_model.bin.index.json", "pytorch_model.bin"


class HubUnreachable(ModelError):
    """The hub does not answer or may not be asked (`why` says which), and the model is not in its cache."""

    why = ""


class HubRefused(ModelError):
    """The hub has the model and does not give it: its owner must grant access."""


def split_hub_id(name: str) -> tuple[str, str | None]:
    """Split ``organisation/model@revision``."""
    hub_id, _, revision = name.partition("@")
    return hub_id, revision or None


class Hub:
    """The hub's models: what it has now, or what its cache has where it does not answer.

    Args:
        offline: never ask it.
        note: told when the cache stands in for a hub that does not answer.
    """

    def __init__(self, *, offline: bool = False, note: Callable[[str], None] = lambda text: None) -> None:
        self.offline = offline
        self.note = note

    def config(self, hub_id: str, revision: str | None = None) -> Path:
        """The path of a model's ``config.json``, in a folder named by its revision (a commit); without its weights.

        Raises:
            HubUnreachable: no network and not in the cache. ModelError: there is no such model, or it may not be read.
        """
        from huggingface_hub import hf_hub_download

        def download(info: Any) -> str:
            return _ask(hub_id, hf_hub_download, filename="config.json", revision=info.sha)

        def cached() -> str:
            return _ask(hub_id, hf_hub_download, filename="config.json", revision=revision, local_files_only=True)

        return Path(self._newest(hub_id, revision, download, cached))

    def folder(self, hub_id: str, revision: str | None = None) -> Path:
        """Download a model (or find it in the hub's cache) and return its folder, named by its revision.

        Raises:
            HubUnreachable: no network and not in the cache. ModelError: there is no such model, or it may not be read.
        """
        from huggingface_hub import snapshot_download

        def download(info: Any) -> str:
            wanted = wanted_files(_names(info))
            patterns = {"allow_patterns": wanted, "ignore_patterns": list(_SUBFOLDERS)}
            return _ask(hub_id, snapshot_download, revision=info.sha, **patterns)

        def cached() -> str:
            folder = _ask(hub_id, snapshot_download, revision=revision, local_files_only=True)
            if not _is_whole(Path(folder)):
                raise _unreachable(hub_id, "its folder in the cache is incomplete")
            return folder

        return Path(self._newest(hub_id, revision, download, cached))

    def _newest(
        self, hub_id: str, revision: str | None, download: Callable[[Any], str], cached: Callable[[], str]
    ) -> str:
        """What the hub has, or what the cache has when the hub does not answer.

        The hub is asked for the model's description first: unlike a download, that fails at once without network.
        """
        from huggingface_hub import HfApi

        if self.offline:
            return cached()
        try:
            info = _ask(hub_id, HfApi().model_info, revision=revision, timeout=SECONDS)
            if ADAPTER in _names(info):
                raise hub_adapter(hub_id)  # before its weights are downloaded
            return download(info)
        except HubUnreachable as unreachable:
            try:
                path = cached()
            except HubUnreachable:
                raise unreachable from None
            self.note(f"{unreachable.why}; using {hub_id} from the cache")
            return path


def _names(info: Any) -> list[str]:
    return [sibling.rfilename for sibling in info.siblings or ()]


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the cache has a config and weights, every file of its index among them."""
    index = next((folder / name for name in (_SAFE_INDEX, _PICKLE_INDEX) if (folder / name).is_file()), None)
    if index is None:
        return any((folder / name).is_file() for name in (_SAFE, _PICKLE)) or any(folder.glob("*.safetensors"))
    files = read_json(index).get("weight_map")
    return isinstance(files, dict) and all((folder / str(name)).is_file() for name in files.values())


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
        raise HubRefused(
            f"{hub_id} is gated: its owner must grant access",
            f"accept its licence at https://huggingface.co/{hub_id} and log in with `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{hub_id} has no revision {arguments.get('revision')!r}", "check the revision, or leave @revision out"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {hub_id!r}, or it is private",
            "check its name; log in with `hf auth login` if it is private",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _not_cached(hub_id, error, asked=not arguments.get("local_files_only")) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{hub_id} on the hub has no config.json: it is not a transformers model",
            "give a repository with config.json, weights and a tokenizer",
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{hub_id!r} is not a valid hub id: {_first_line(error)}", "check its name") from error
    except errors.HfHubHTTPError as error:
        raise _http_error(hub_id, error) from error
    except Exception as error:  # httpx, requests and OS errors, as the hub's client and its version have it
        raise _unreachable(hub_id, f"the hub does not answer ({type(error).__name__}: {_first_line(error)})") from error


def _not_cached(hub_id: str, error: Exception, asked: bool) -> ModelError:
    """The client found nothing: not in the cache, or the hub's answer was an error that it hides behind this one."""
    if not asked:
        return _unreachable(hub_id, "--offline forbids asking the hub")
    cause = error.__cause__ or error
    return _http_error(hub_id, cause) if _status(cause) else _unreachable(hub_id, _first_line(cause))


def _http_error(hub_id: str, error: BaseException) -> ModelError:
    """An outage (5xx) and too many requests (429) pass; another status is the hub's last word."""
    status = _status(error)
    if status == 429 or status >= 500:
        return _unreachable(
            hub_id, f"the hub answers with HTTP status {status} ({'too many requests' if status == 429 else 'outage'})"
        )
    return ModelError(
        f"the hub refuses {hub_id!r}: {_first_line(error)}",
        "`hf auth whoami` shows the account that you are logged in with",
    )


def _status(error: BaseException) -> int:
    """The HTTP status behind an error of the hub's client, 0 when there is none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _unreachable(hub_id: str, why: str) -> HubUnreachable:
    error = HubUnreachable(
        f"cannot get {hub_id} from the hub and it is not in the cache: {why[:200]}",
        f"on a machine with network access run `hf download {hub_id} --local-dir FOLDER`, copy FOLDER here "
        "and give its path; set HF_ENDPOINT to use a mirror, HF_HOME to use another cache",
    )
    error.why = why[:200]
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

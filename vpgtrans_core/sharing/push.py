"""Uploads a model folder to the Hugging Face hub, through its own client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpgtrans_core.errors import ConfigError, ModelError, VpgtError
from vpgtrans_core.sharing.content import Content, belongs, model_content

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"

_EMPTY = "a new model may have been made there, still empty"


def check_repo_id(repo_id: str) -> str:
    """A hub id that can be written to.

    Raises:
        ConfigError: it is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    hint = "a name on the hub is `user/model` or `organisation/model`, of letters, digits, -, _ and ."
    if "@" in repo_id:
        raise ConfigError([f"{repo_id!r} is not a valid name on the hub"], f"{hint}; a branch is given with --revision")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError([f"{repo_id!r} is not a valid name on the hub"], hint) from error
    return repo_id


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    tell: Callable[[Content], None] = lambda content: None,
) -> str:
    """Upload what belongs to the model in `folder`, in one commit, and return the commit's address.

    Files of an earlier model on the same branch go in that commit; files that belong to no model stay.

    The token is the one that the hub's client finds: HF_TOKEN, or what ``hf auth login`` has saved.

    Args:
        folder: a finished run, an import or an export.
        repo_id: ``user/model``; made when it is not there. A name alone is the user's own.
        private: whether a new model is private; None leaves it to the hub.
        revision: the branch to write to; made when it is not there.
        message: the commit's message.
        tell: is told what goes before it goes.

    Raises:
        ConfigError: `repo_id` is not a hub id.
        VpgtError: the folder cannot be shared, it would be private where a public one is, or the hub refuses or
            cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo_id(repo_id)
    place = Path(folder).expanduser()
    model_content(place, repo_id)  # what cannot go is said before anything is made on the hub
    api = HfApi()
    made = _ask(repo_id, api.create_repo, repo_id, private=private, exist_ok=True)
    if private and not _ask(repo_id, api.repo_info, made.repo_id).private:
        raise ModelError(
            f"{made.repo_id} is there already and public, so nothing was uploaded",
            "make it private in its settings on the hub first, give another name, or leave --private out",
        )
    if revision:
        _ask(repo_id, api.create_branch, made.repo_id, branch=revision, exist_ok=True)
    content = model_content(place, made.repo_id)
    tell(content)
    there = _ask(repo_id, api.list_repo_files, made.repo_id, revision=revision)
    # What an earlier model left would be read with this one's files: a single weight file before shards, for one.
    stale = [name for name in there if belongs(name) and name not in content.files]
    commit = _ask(
        repo_id,
        api.create_commit,
        made.repo_id,
        [
            *(CommitOperationAdd(name, file) for name, file in content.files.items()),
            *(CommitOperationDelete(name, is_folder=False) for name in stale),
        ],
        commit_message=message or f"Upload {place.resolve().name} with vpgt",
        revision=revision,
    )
    return str(commit.commit_url)


def _ask(repo_id: str, what: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call the hub and turn its refusals into our errors."""
    try:
        return what(*arguments, **named)
    except Exception as error:  # the hub's, httpx's and OS errors, as the client and its version have it
        raise _refusal(repo_id, error) from error


def _refusal(repo_id: str, error: Exception) -> VpgtError:
    from huggingface_hub import errors

    status = _status(error)
    said = _first_line(error)
    if isinstance(error, errors.LocalTokenNotFoundError) or status == 401:
        return ModelError(f"the hub does not know who you are, so nothing can be written to {repo_id}", LOG_IN)
    if status == 403:
        return ModelError(
            f"you may not write to {repo_id}: {said}",
            "check the user's or organisation's name, and that the token may write: https://huggingface.co/settings/tokens",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{repo_id} has no such branch: {said}", "leave --revision out, or name a branch")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ModelError("HF_HUB_OFFLINE is set: the hub may not be asked", "unset it to push")
    passing = status is not None and (status >= 500 or status == 429)
    if not passing and (status is not None or isinstance(error, ValueError)):
        return ModelError(f"the hub refuses {repo_id}: {said}", f"no file was changed on the hub; {_EMPTY}")
    return ModelError(
        f"the upload to {repo_id} broke off: {said}",
        "check the network and run it again: no file is visible before all are there, and what the hub has of the "
        f"weights is not sent twice; {_EMPTY}; a mirror is named by HF_ENDPOINT",
    )


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error or of what caused it: uploads wrap theirs."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return int(status)
        error = error.__cause__
    return None


def _first_line(error: BaseException) -> str:
    """The hub's message, otherwise the first cause."""
    while getattr(error, "server_message", None) is None and error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

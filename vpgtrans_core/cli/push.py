"""``vpgt push``: upload a finished model to the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vpgtrans_core.sharing.content import Content


def add_to(app: typer.Typer) -> None:
    app.command("push")(push)


def push(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A finished run, an import or an export.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="user/model on the hub; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; created if missing. Default main.")] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files to upload; ask nobody.")] = False,
) -> None:
    """Upload a finished model with its model card to the Hugging Face hub."""
    from pathlib import Path

    from vpgtrans_core.sharing.content import model_content
    from vpgtrans_core.sharing.push import check_repo_id
    from vpgtrans_core.sharing.push import push as upload

    if dry_run:
        _show(model_content(Path(folder).expanduser(), check_repo_id(repo_id)))
        return
    print(upload(folder, repo_id, private=private or None, revision=revision, message=message, tell=_show))


def _show(content: Content) -> None:
    from vpgtrans_core.cli.columns import columns
    from vpgtrans_core.planning.text import size

    rows = [
        (name, size(content.size(name)), "without the places of this machine" if name in content.changed else "")
        for name in sorted(content.files)
    ]
    rows.append(("all", size(content.total), ""))
    print("\n".join(columns(("FILE", "SIZE", ""), rows, right=(1,))))
    if content.aside:
        print(f"left here: {', '.join(content.aside)}")

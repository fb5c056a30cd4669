"""``vpgt data``: check captioned images before a run, and write manifests of tar shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vpgtrans_core.errors import DataError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SHOWN = 5
"""At most this many bad samples and damaged shards are named."""

commands = typer.Typer(name="data", no_args_is_help=True, help="Check captioned images before a run.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands, name="data")


@commands.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Captioned images, as for --data.")],
    format: Annotated[str | None, typer.Option(help="The data's format, if vpgt does not recognise it.")] = None,
    caption_key: Annotated[str | None, typer.Option(help="Key of the captions; default: the usual names.")] = None,
    as_json: Json = False,
) -> None:
    """Count the usable and the bad samples, and compare tar shards with the SHA-256 in their manifest."""
    from vpgtrans_core.data.bad import Bounds
    from vpgtrans_core.data.captions import clean
    from vpgtrans_core.data.readers.detect import read_source
    from vpgtrans_core.data.readers.shard_manifest import NAME, check_shards
    from vpgtrans_core.data.readers.shard_paths import is_pattern, refuse_urls, shards

    refuse_urls(path)
    tars = Path(path).is_dir() or path.endswith(".tar") or (is_pattern(path) and not Path(path).exists())
    files = shards(path) if tars and format in (None, "webdataset") else []
    reports = check_shards([file for file in files if file.exists()])
    damaged = [report for report in reports if report.damage]
    if damaged:
        raise DataError(
            "\n".join(
                [f"{len(damaged)} of {len(reports)} shards are damaged:"]
                + [f"  - {report.path}: {report.damage}; {report.missing}" for report in damaged[:SHOWN]]
                + ([f"  - and {len(damaged) - SHOWN} more"] if len(damaged) > SHOWN else [])
            ),
            "download them again; a run counts the missing samples as bad and stops if there are too many",
        )
    listing = read_source(path, format, clean, caption_key=caption_key)
    if as_json:
        print(json.dumps(listing.describe() | {"shards_compared": sum(r.expected is not None for r in reports)}))
    else:
        print(f"{path}: {listing.format}, {len(listing)} images, {listing.captions} captions")
        if reports:
            compared = sum(report.expected is not None for report in reports)
            how = (
                f"{compared} match the SHA-256 in {NAME}" if compared else f"none could be compared: there is no {NAME}"
            )
            print(f"{len(reports)} shards are whole; {how}")
        for kind, count in listing.bad.counts.items():
            print(f"skipped: {count} x {kind}")
        for sample in listing.bad.named[:SHOWN]:
            print(f"  {sample}")
    listing.bad.check(len(listing) + listing.bad.total, Bounds(), path)


@commands.command()
def manifest(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of whole .tar shards.")],
) -> None:
    """Write a manifest of a folder's shards, with which damaged and missing shards are detected later."""
    from vpgtrans_core.data.readers.shard_manifest import write_manifest
    from vpgtrans_core.data.readers.shard_paths import shards

    files = shards(str(folder)) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} is not a folder with .tar shards", "give the folder that holds them")
    print(write_manifest(files))

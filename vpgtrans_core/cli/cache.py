"""``vpgt cache``: the disk cache of what frozen VPGs compute from images."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import build as build_settings

KINDS = ("outputs", "features")
Root = Annotated[
    str | None,
    typer.Option("--cache", metavar="DIR", help="Cache folder; default $VPGT_CACHE or the user's cache folder."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

commands = typer.Typer(
    name="cache",
    no_args_is_help=True,
    help="Manage the cache of what frozen VPGs compute from images, for use by later runs and other LLMs.",
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands, name="cache")


@commands.command()
def build(
    ctx: typer.Context,
    source: Annotated[str, typer.Option("--from", help="Source VL-LLM or VPG: an alias, hub id or folder.")],
    data: Annotated[list[str] | None, typer.Option(help="Images with captions; default those of the source.")] = None,
    format: Annotated[list[str] | None, typer.Option(help="Format of the data where it cannot be detected.")] = None,
    kind: Annotated[
        str,
        typer.Option(
            metavar="|".join(KINDS), help="outputs: to train only the projector; features: to train the VPG too."
        ),
    ] = "outputs",
    caption_key: Annotated[str | None, typer.Option(help="Key of the captions; default: the usual names.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views per image; default only the plain image.")] = None,
    crop_min: Annotated[float, typer.Option(help="Smallest share of the image's area that a random crop keeps.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Random seed of the runs that will use the views.")] = 0,
    cache: Root = None,
    cache_gb: Annotated[float, typer.Option(help="Maximum size of the cache in gigabytes.")] = 20.0,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Precision of the frozen ViT; use that of the later runs.")] = "auto",
    half: Annotated[
        str, typer.Option(help="Meaning of auto on a GPU: the half precision of the target family.")
    ] = "bfloat16",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of images, the same as in a run with this limit.")
    ] = None,
    val_images: Annotated[
        int, typer.Option(help="Number of images that the runs hold out, in addition to the limit.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Compute and cache what is missing, without a language model."""
    if kind not in KINDS:
        raise ConfigError([f"kind: must be one of {', '.join(KINDS)}, not {kind!r}"])
    if half not in ("float16", "bfloat16"):
        raise ConfigError([f"half: must be float16 or bfloat16, not {half!r}"])
    values: dict[str, Any] = {"source": source, "data": tuple(data or ()), "format": tuple(format or ())}
    values |= {"crop_min": crop_min, "seed": seed, "cache": cache, "cache_gb": cache_gb, "device": device}
    values |= {"dtype": dtype, "workers": workers, "limit": limit, "views": 1 if views is None else views}
    values |= {"caption_key": caption_key, "val_images": val_images}
    settings = build_settings({**values, "augment": views is not None, "cache_features": True})

    from vpgtrans_core.cache.build import build_cache
    from vpgtrans_core.cli.progress import Reporter
    from vpgtrans_core.machine import choose_machine
    from vpgtrans_core.models.resolve import resolve_source
    from vpgtrans_core.run.feed import open_training_data
    from vpgtrans_core.vlm.assemble import load_vpg

    resolved = resolve_source(source, ctx.obj.registry, settings)
    own = resolved.card.data if resolved.bundled and resolved.card else ""
    if not settings.data and not own:
        raise ConfigError(["no data is given"], "give images with captions: --data PATH")
    machine = choose_machine(settings, half)
    with Reporter(quiet=as_json) as reporter:
        vpg = load_vpg(resolved, machine, lazily=True)
        made = build_cache(vpg, open_training_data(settings, own), settings, machine, kind, reporter)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps(made, indent=2))
        return
    if made["skipped"]:
        print("skipped: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(made["skipped"].items())))
    print(f"{made['computed']} computed, {made['entries']} entries, {made['bytes'] / 1e9:.3g} GB in {made['folder']}")


@commands.command()
def info(
    cache: Root = None,
    check: Annotated[bool, typer.Option("--check", help="Read all shards and verify their SHA-256.")] = False,
    as_json: Json = False,
) -> None:
    """List the caches on disk."""
    from vpgtrans_core.cache.listing import cache_folders
    from vpgtrans_core.files import cache_root

    root = cache_root(cache)
    caches = cache_folders(root, check=check)
    if as_json:
        print(json.dumps({"root": str(root), "caches": [c.as_dict() for c in caches]}, indent=2))
        return
    print(f"{root}: {len(caches)} caches, {sum(c.bytes for c in caches) / 1e9:.3g} GB")
    if caches:
        rows = [
            (
                c.folder.name,
                str(c.key["vpg"])[:12],
                str(c.key.get("dtype")),
                str(c.entries),
                f"{c.bytes / 1e9:.3g}",
                f"{c.days:.0f}",
                "" if c.damaged is None else str(c.damaged),
            )
            for c in caches
        ]
        print("\n".join(columns(("CACHE", "VPG", "DTYPE", "ENTRIES", "GB", "DAYS", "DAMAGED"), rows)))


@commands.command()
def clear(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of caches, as listed by `info`; default all.")
    ] = None,
    cache: Root = None,
    days: Annotated[float, typer.Option(help="Remove only caches not written for this many days.")] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove caches. A later run computes again what it needs."""
    from vpgtrans_core.cache.listing import cache_folders, remove
    from vpgtrans_core.errors import did_you_mean
    from vpgtrans_core.files import cache_root

    root = cache_root(cache)
    caches = cache_folders(root)
    known = {c.folder.name for c in caches}
    if unknown := sorted(set(names or ()) - known):
        raise ConfigError([f"no cache {name!r} in {root}" for name in unknown], did_you_mean(unknown[0], known))
    chosen = [c for c in caches if (not names or c.folder.name in names) and c.days >= days]
    size = sum(c.bytes for c in chosen) / 1e9
    if chosen and not yes and not typer.confirm(f"remove {len(chosen)} caches ({size:.3g} GB) in {root}?"):
        raise typer.Exit(1)
    for one in chosen:
        remove(one)
    print(f"{len(chosen)} caches removed, {size:.3g} GB")

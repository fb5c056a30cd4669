"""``vpgt cache``: what frozen VPGs computed of images, kept on disk."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.settings import build as build_settings

KINDS = ("outputs", "features")
Root = Annotated[str | None, typer.Option("--cache", metavar="DIR", help="Default $VPGT_CACHE or the user's cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

commands = typer.Typer(
    name="cache", no_args_is_help=True, help="What frozen VPGs computed of images, kept for the next run or LLM."
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands, name="cache")


@commands.command()
def build(
    ctx: typer.Context,
    source: Annotated[str, typer.Option("--from", help="The trained VL-LLM or VPG: an alias, hub id or folder.")],
    data: Annotated[list[str] | None, typer.Option(help="Captioned images; default those of the source.")] = None,
    format: Annotated[list[str] | None, typer.Option(help="The data's format where looking is not enough.")] = None,
    kind: Annotated[
        str, typer.Option(metavar="|".join(KINDS), help="For training the projector alone, or the VPG too.")
    ] = "outputs",
    caption_key: Annotated[str | None, typer.Option(help="The key of the captions; default the usual names.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views an image; default the plain one alone.")] = None,
    crop_min: Annotated[float, typer.Option(help="Smallest share of the area that a random crop keeps.")] = 0.5,
    seed: Annotated[int, typer.Option(help="The seed of the runs that will use the views.")] = 0,
    cache: Root = None,
    cache_gb: Annotated[float, typer.Option(help="Most gigabytes that it may take.")] = 20.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Precision of the frozen ViT, that of the runs to come.")] = "auto",
    half: Annotated[str, typer.Option(help="What auto means on a GPU: the target family's half.")] = "bfloat16",
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many images, those of a run with this limit.")] = None,
    val_images: Annotated[int, typer.Option(help="Images that the runs hold out; they come on top.")] = 0,
    as_json: Json = False,
) -> None:
    """Compute what is not there yet of all images, without a language model."""
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

    found = resolve_source(source, ctx.obj.registry, settings)
    own = found.card.data if found.bundled and found.card else ""
    if not settings.data and not own:
        raise ConfigError(["no data is given"], "give captioned images: --data PATH")
    machine = choose_machine(settings, half)
    with Reporter(quiet=as_json) as reporter:
        vpg = load_vpg(found, machine, lazily=True)
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
    check: Annotated[bool, typer.Option("--check", help="Read all shards and compare their SHA-256.")] = False,
    as_json: Json = False,
) -> None:
    """List the caches on disk."""
    from vpgtrans_core.cache.key import cache_root
    from vpgtrans_core.cache.listing import cache_folders

    root = cache_root(cache)
    found = cache_folders(root, check=check)
    if as_json:
        print(json.dumps({"root": str(root), "caches": [c.as_dict() for c in found]}, indent=2))
        return
    print(f"{root}: {len(found)} caches, {sum(c.bytes for c in found) / 1e9:.3g} GB")
    if found:
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
            for c in found
        ]
        print("\n".join(columns(("CACHE", "VPG", "DTYPE", "ENTRIES", "GB", "DAYS", "DAMAGED"), rows)))


@commands.command()
def clear(
    names: Annotated[list[str] | None, typer.Argument(help="Caches as `info` names them; default all.")] = None,
    cache: Root = None,
    days: Annotated[float, typer.Option(help="Only those not written for so many days.")] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove caches. Nothing is lost but time: what is missing is computed again."""
    from vpgtrans_core.cache.key import cache_root
    from vpgtrans_core.cache.listing import cache_folders, remove
    from vpgtrans_core.errors import did_you_mean

    root = cache_root(cache)
    found = cache_folders(root)
    known = {c.folder.name for c in found}
    if unknown := sorted(set(names or ()) - known):
        raise ConfigError([f"no cache {name!r} in {root}" for name in unknown], did_you_mean(unknown[0], known))
    chosen = [c for c in found if (not names or c.folder.name in names) and c.days >= days]
    size = sum(c.bytes for c in chosen) / 1e9
    if chosen and not yes and not typer.confirm(f"remove {len(chosen)} caches ({size:.3g} GB) in {root}?"):
        raise typer.Exit(1)
    for one in chosen:
        remove(one)
    print(f"{len(chosen)} caches removed, {size:.3g} GB")

"""``vpgt list-plugins`` and ``vpgt list-models``: plugins and models, listed without loading torch."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Annotated, Any

import typer

from vpgtrans_core.cards import LLMCard
from vpgtrans_core.cli.columns import columns
from vpgtrans_core.errors import did_you_mean
from vpgtrans_core.models.gguf_files import installed_files
from vpgtrans_core.planning.text import count
from vpgtrans_core.registry import KnownLLM, KnownSource, Registry
from vpgtrans_core.registry.loading import PluginRecord

SLOW = 0.5
"""A plugin's import time is shown from this many seconds on."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    app.command("list-plugins")(list_plugins)
    app.command("list-models")(list_models)


def list_plugins(ctx: typer.Context, as_json: Json = False) -> None:
    """List plugins: distribution, version, status, what they provide, and what is wrong with them."""
    registry: Registry = ctx.obj.registry
    if as_json:
        print(json.dumps(registry.to_json(), indent=2))
    else:
        print("\n".join(plugin_lines(registry)))
    exit_if_strict(registry)


def exit_if_strict(registry: Registry) -> None:
    """Exit with the strict switch's code if it is on and a plugin has a problem."""
    if registry.switches.strict and registry.problems():
        raise typer.Exit(3)


def plugin_lines(registry: Registry) -> list[str]:
    """The table of plugins, and below it their problems."""
    rows = [(r.name, r.distribution, r.version, r.status, provided_text(r)) for r in registry.records]
    lines = columns(("PLUGIN", "DISTRIBUTION", "VERSION", "STATUS", "PROVIDES"), rows)
    for record in registry.records:
        if record.cause:
            lines.append(f"{record.name}: {record.verdict}")
        lines += [f"{record.name}: warning: {w}" for w in record.warnings]
        if record.seconds >= SLOW:
            lines.append(f"{record.name}: loading took {record.seconds:.1f} s")
    return lines


def provided_text(record: PluginRecord) -> str:
    """``"llm family opt, 10 llms"``: names of what is single, counts of what is many."""
    many = ("llm", "source", "eval task", "eval metric")
    kinds = Counter(provided.rsplit(" ", 1)[0] for provided in record.provides)
    said = [provided for provided in record.provides if provided.rsplit(" ", 1)[0] not in many]
    said += [f"{kinds[kind]} {kind}{'s' if kinds[kind] > 1 else ''}" for kind in many if kinds[kind]]
    return ", ".join(said)


def list_models(
    ctx: typer.Context,
    as_json: Json = False,
    family: Annotated[str | None, typer.Option(help="Only models of this LLM or VPG family.")] = None,
) -> None:
    """List language models (--to) and trained VL-LLMs (--from) known by alias."""
    registry: Registry = ctx.obj.registry
    if family:
        _check_family(family, registry)
    llms = [k for k in registry.llms() if family in (None, k.family.name)]
    sources = [k for k in registry.sources() if family in (None, k.family.name)]
    if as_json:
        print(json.dumps({"llms": [_fields(k) for k in llms], "sources": [_fields(k) for k in sources]}, indent=2))
        return
    print("\n".join([*_llm_lines(llms), *([""] if llms and sources else []), *_source_lines(sources)]))


def _check_family(name: str, registry: Registry) -> None:
    known = sorted({f.name for f in registry.llm_families()} | {f.name for f in registry.vpg_families()})
    if name not in known:
        guess = did_you_mean(name, known)
        raise typer.BadParameter(f"unknown family {name!r}; " + (guess or f"the families are {', '.join(known)}"))


def _fields(known: KnownLLM | KnownSource) -> dict[str, Any]:
    fields = {"family": known.family.name, "plugin": known.plugin, **dataclasses.asdict(known.card)}
    return {**fields, "installed": _installed(known)}


def _llm_lines(llms: list[KnownLLM]) -> list[str]:
    if not llms:
        return []
    header = ("LLM (--to)", "FAMILY", "PARAMETERS", "WIDTH", "LAYERS", "WORDS", "END", "FROM", "LICENCE")
    rows = [
        (
            k.card.alias,
            k.family.name,
            count(k.card.parameters),
            _fact(k.card, "hidden_size"),
            str(k.card.layers),
            _fact(k.card, "vocab_size"),
            _fact(k.card, "end_token"),
            _place(k),
            k.card.licence,
        )
        for k in llms
    ]
    return [
        *columns(header, rows, right=(2, 3, 4, 5, 6)),
        "~ taken from the publication; transformers' config class does not state it",
    ]


def _fact(card: LLMCard, name: str) -> str:
    """A fact of a card; a mark says that it comes from the publication and was not measured."""
    value = getattr(card, name)
    return "" if value is None else f"{value}{'' if name in card.checked or card.bundled else '~'}"


def _source_lines(sources: list[KnownSource]) -> list[str]:
    if not sources:
        return []
    header = ("VL-LLM (--from)", "LLM", "FAMILY", "PIXELS", "FROM", "LICENCE")
    rows = [
        (
            k.card.alias,
            k.card.llm or "none (only a VPG)",
            k.family.name,
            str(k.card.image_size),
            _place(k),
            k.card.licence,
        )
        for k in sources
    ]
    return columns(header, rows, right=(3,))


def _place(known: KnownLLM | KnownSource) -> str:
    if known.card.bundled:
        return "built in"
    return "installed package" if _installed(known) else known.card.hub_id


def _installed(known: KnownLLM | KnownSource) -> bool:
    """Whether the packages that hold its weights are installed."""
    return isinstance(known, KnownLLM) and bool(installed_files(known.card.packaged))

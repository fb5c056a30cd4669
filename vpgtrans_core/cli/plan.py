"""``vpgt plan``: estimate what a transfer takes, before anything is downloaded or paid for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.cli.options import settings_from, with_settings
from vpgtrans_core.cli.plan_ways import ways_text
from vpgtrans_core.cli.transfer import require_models

if TYPE_CHECKING:
    from vpgtrans_core.planning.cost.chips import Chip
    from vpgtrans_core.planning.cost.costs import Cost, Fit
    from vpgtrans_core.planning.parts import Plan

PANEL = "This command"
PARTS = {
    "llm_weights": "LLM weights",
    "vpg_weights": "VPG and projector",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "llm_activations": "LLM activations",
    "vpg_activations": "VPG activations",
    "working": "working memory",
    "reserved": "reserved",
}


def add_to(app: typer.Typer) -> None:
    app.command("plan")(plan)


@with_settings()
def plan(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", rich_help_panel=PANEL, help="Settings file; flags take precedence over it."),
    ] = None,
    gpu: Annotated[str, typer.Option(rich_help_panel=PANEL, help="GPU: h100, a100, h200, 4090, ...")] = "a100",
    gpus: Annotated[int, typer.Option(rich_help_panel=PANEL, help="Number of GPUs, in one machine.")] = 1,
    mfu: Annotated[
        float | None,
        typer.Option(rich_help_panel=PANEL, help="Model FLOPs utilisation: share of the GPU's peak; default 0.35."),
    ] = None,
    price: Annotated[
        float | None, typer.Option(rich_help_panel=PANEL, help="US dollars per GPU-hour; default a guess.")
    ] = None,
    link: Annotated[
        float | None,
        typer.Option(
            metavar="GB/S", rich_help_panel=PANEL, help="What a GPU gets from another, stated; default the GPU's."
        ),
    ] = None,
    caption_tokens: Annotated[
        float | None,
        typer.Option(rich_help_panel=PANEL, help="Mean tokens per caption; default from the data, else 13."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=PANEL, help="Print JSON.")] = False,
    **flags: Any,
) -> None:
    """Estimate a transfer without loading weights: shapes, memory, FLOPs, hours, dollars, disk, downloads."""
    settings = settings_from(config, flags)
    if settings.method != "tune" or not settings.source:  # a model that is tuned keeps its LLM
        require_models(settings)
    from vpgtrans_core.planning.cost.assumptions import assumptions_for
    from vpgtrans_core.planning.cost.chips import chip, chips, with_link
    from vpgtrans_core.planning.cost.estimate import Estimator
    from vpgtrans_core.planning.plan import plan as make_plan

    registry = ctx.obj.registry
    table = chips(registry.switches.folder)
    device = with_link(chip(gpu, table), link)
    made = make_plan(settings, registry=registry)
    assumed = assumptions_for(made, device, gpus=gpus, mfu=mfu, price=price, caption_tokens=caption_tokens)
    cost = Estimator(made, registry, device, assumed).cost()
    if as_json:
        print(json.dumps({"plan": made.as_dict(), "cost": cost.as_dict()}, indent=2, default=str))
    else:
        print(f"{made}\n\n" + "\n\n".join("\n".join(block) for block in cost_text(made, cost, table) if block))


def cost_text(plan: Plan, cost: Cost, chips: Mapping[str, Chip]) -> list[list[str]]:
    """Blocks of lines: time, money, memory, ways to hold the LLM, the host's memory, disk, the paper's runs, what was
    assumed."""
    ways, host = ways_text(cost, chips.values()), _host(cost)
    paper = [] if plan.method == "tune" else _paper(cost)
    return [_time(plan, cost), _memory(cost), ways, host, _disk(cost), paper, _assumed(plan, cost)]


def _time(plan: Plan, cost: Cost) -> list[str]:
    price = cost.assumptions.price * cost.assumptions.gpus / cost.parallel

    def line(name: str, captions: float, each: float | None, flops: float | None, gpu_hours: float) -> tuple[str, ...]:
        work = (f"{each / 1e12:.3g}" if each else "", f"{flops:.3g}" if flops else "")
        money = f"{gpu_hours * price:,.2f}"
        return name, f"{captions:,.0f}", *work, _hours(gpu_hours / cost.parallel), _hours(gpu_hours), money

    stages, scratch, theirs = cost.stages, cost.scratch, cost.scratch_paper_code
    captions, flops = sum(s.captions for s in stages), sum(s.total_flops for s in cost.parts)
    names = [part.name for part in cost.before] + [f"stage {s.number} ({s.name})" for s in stages]
    rows = [
        line(name, part.captions, part.flops_per_caption, part.total_flops, part.gpu_hours)
        for name, part in zip(names, cost.parts, strict=True)
    ]
    rows += [line("together", captions, None, flops, cost.gpu_hours)]
    rows += (
        []
        if plan.method == "tune"
        else [
            line("from scratch", scratch.captions, scratch.flops_per_caption, scratch.total_flops, scratch.gpu_hours),
            line("  in the paper's code", scratch.captions, None, None, theirs),
        ]
    )
    header = ("TIME", _counted(plan), "TFLOP EACH", "FLOP", "HOURS", "GPU-HOURS", "USD")
    lines = columns(header, rows, right=range(1, 7))
    if plan.method not in ("scratch", "tune") and plan.target.origin != "bundled" and cost.gpu_hours:
        times = scratch.gpu_hours / cost.gpu_hours
        lines.append(f"training from scratch on as much data as in the paper costs {times:.3g} times as much")
    return lines


def _counted(plan: Plan) -> str:
    """What the numbers of a table count: captions, or where conversations are learned their answers."""
    kinds = dict.fromkeys("CAPTIONS" if stage.conversations is None else "ANSWERS" for stage in plan.stages)
    return ", ".join(kinds) or "CAPTIONS"


def _memory(cost: Cost) -> list[str]:
    fits = cost.fits
    rows = [
        (name, *(f"{getattr(f.memory, part) / 1e9:.2f}" for f in fits))
        for part, name in PARTS.items()
        if any(getattr(f.memory, part) for f in fits)
    ]
    rows.append(("total", *(f"{f.memory.total / 1e9:.2f}" for f in fits)))
    which = "ONE" if cost.parallel == cost.assumptions.gpus else "THE FULLEST"
    header = (f"GB ON {which} {cost.chip.name.upper()}", *(f"STAGE {f.stage}" for f in fits))
    lines = columns(header, rows, right=range(1, 1 + len(fits)))
    return lines + [_fit(f, cost) for f in fits]


def _fit(fit: Fit, cost: Cost) -> str:
    if not fit.most_images:
        return f"stage {fit.stage} does not fit on one {cost.chip.title}, not even in 4 bits with one image at a time"
    text = f"stage {fit.stage}: {fit.images} images ({fit.positions:,} LLM positions) at once"
    text += f"; {fit.most_images} fit" if fit.images != fit.most_images else ", the most that fit or that a step has"
    needs = [f"--quantization {fit.quantization}"] if fit.quantization != "none" else []
    needs += ["--checkpoint-activations"] if fit.checkpointing else []
    return f"{text}; needs {' and '.join(needs)}" if needs else f"{text}; no quantisation needed"


def _host(cost: Cost) -> list[str]:
    from vpgtrans_core.planning.text import size

    host = cost.host
    count = f"{host.processes} process" + ("es" if host.processes > 1 else "")
    own = size(host.base + host.own)
    return [
        f"host memory while the LLM is loaded: {size(host.total)}: {count} x {own}, and {size(host.file)} of the",
        f"LLM's file, mapped once for all; each process shows {size(host.one)}",
    ]


def _disk(cost: Cost) -> list[str]:
    from vpgtrans_core.planning.text import size

    names = {
        "cache_of_vpg_outputs": "cache of VPG outputs (if used, while only the projector is trained)",
        "cache_of_vit_features": "cache of ViT features (if used, while the VPG is trained)",
        "model_folder": "model folder",
        "checkpoint": "one checkpoint",
    }
    return columns(("DISK", "SIZE"), [(names[name], size(value)) for name, value in cost.disk.items()], right=(1,))


def _paper(cost: Cost) -> list[str]:
    rows = [
        (
            c.name,
            f"{c.pairs / 1e6:g} M",
            f"{c.reported:g}",
            f"{c.paper_code:.1f}",
            f"{c.ours:.1f}",
            f"{c.implied_mfu:.2f}",
            f"{c.each / 1e12:.2f}",
            f"{c.vit:.2f}",
        )
        for c in cost.paper
    ]
    header = ("THE PAPER, A100-HOURS", "PAIRS", "REPORTED", "ITS CODE", "VPGT", "IMPLIED MFU", "TFLOP EACH", "VIT")
    if not rows:
        return []
    return [
        *columns(header, rows, right=range(1, 8)),
        "vpgt's for one caption an image, which shares nothing: the ViT's part of the work (VIT) stays",
    ]


def _assumed(plan: Plan, cost: Cost) -> list[str]:
    from vpgtrans_core.planning.cost.teaching import SLOWER
    from vpgtrans_core.planning.cost.ways import LINK_SHARE
    from vpgtrans_core.planning.text import conversations_text

    a, float8 = cost.assumptions, plan.settings.quantization == "float8"
    sampling = f"sampling captions reaches 1/{SLOWER:g} of that share;" if cost.describing else ""
    amount = "as given" if plan.data else "as in the paper, where no steps are given"
    talks = [f"stage {s.number}: {conversations_text(s)};" for s in plan.stages if s.conversations is not None]
    captions = f"{a.caption_tokens:g} tokens per caption; {a.captions_per_image:.3g} captions per image; "
    return [
        f"assumptions: {a.gpus} x {cost.chip.title} at {a.price:.2f} USD an hour each, "
        f"MFU {a.mfu:g} of {cost.chip.tflops:g} TFLOP/s;",
        *([sampling] if sampling else []),
        *(["float8 counted at the speed of half precision: its own was not measured;"] if float8 else []),
        f"{captions if len(talks) < len(plan.stages) or not talks else ''}amount of data {amount};",
        *talks,
        "no cache: every epoch computes every image; reading images is no bottleneck; MFU and price are guesses;",
        f"traffic at {LINK_SHARE:g} of {cost.chip.link_gbs:g} GB/s between GPUs and {cost.chip.host_gbs:g} GB/s from "
        "main memory; shards are gathered",
        "while blocks compute; of an LLM that is spread, one GPU computes at a time",
    ]


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours * 60:.1f} min"

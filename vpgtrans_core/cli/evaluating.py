"""``vpgt eval``: a model, or answers that are at hand, on a task."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.cli.options import settings_from, with_settings
from vpgtrans_core.cli.progress import Reporter
from vpgtrans_core.errors import ConfigError
from vpgtrans_core.registry import Registry

MACHINE = (
    *("device", "dtype", "quantization", "shard", "cache", "cache_features", "cache_gb", "offline"),
    "trust_remote_code",
)
"""The settings of a run that an evaluation has too."""


def add_to(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


@with_settings(lambda name: name if name in MACHINE else None)
def evaluate(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="A model folder, an alias or a hub id of a VL-LLM.")] = None,
    task: Annotated[str | None, typer.Option(help="The task; --list shows all.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:IMAGES]", help="The task's files as published; repeatable. Images after a colon."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric instead of the task's; repeatable. --list shows all.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="Score these answers; no model is loaded.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="The output folder; default runs/eval/MODEL--TASK.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another evaluation in the folder.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first samples.")] = None,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="Only write answers: for tests whose references are not published.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts generated at once.")] = 16,
    prompt: Annotated[
        str | None, typer.Option(help="Text before what is generated, with {} for the question; default the paper's.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Beams of the search.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(min=0, help="Shortest text in tokens.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Above 0 beams prefer long texts.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Pictures on the HTML page.")] = 60,
    list_all: Annotated[bool, typer.Option("--list", help="List tasks and metrics.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    **flags: Any,
) -> None:
    """Measure a model as papers do; called again after a stop, it goes on where it was."""
    if list_all:
        print("\n".join(listing(ctx.obj.registry)))
        return
    if task is None:
        raise ConfigError(["no task is named"], "add --task NAME; `vpgt eval --list` shows all")
    from vpgtrans_core.evaluation.run import EvalSettings
    from vpgtrans_core.evaluation.run import evaluate as run

    chosen = {"num_beams": num_beams, "min_new_tokens": min_new_tokens, "max_new_tokens": max_new_tokens}
    options = {k: v for k, v in {**chosen, "length_penalty": length_penalty}.items() if v is not None}
    settings = EvalSettings(
        task=task, model=model, data=tuple(data or ()), predictions=predictions, out=out, metrics=tuple(metric or ()),
        scored=not no_scores, limit=limit, batch_size=batch_size, prompt=prompt, options=options, examples=examples,
        overwrite=overwrite, machine=settings_from(None, flags),
    )  # fmt: skip
    with Reporter(quiet=quiet) as reporter:
        result = run(settings, ctx.obj.registry, reporter)
    if result is None:
        return
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, ensure_ascii=False))
    else:
        head, *rows = result.rows()
        print("\n".join([*columns(head, rows), f"written to {result.folder}"]))


def listing(registry: Registry) -> list[str]:
    """Tables of all tasks and metrics."""
    tasks = [(t.name, ", ".join(t.metrics), t.help, t.wants or "none") for t in registry.eval_tasks()]
    metrics = [(m.name, m.help) for m in registry.eval_metrics()]
    return [*columns(("TASK", "METRICS", "WHAT", "DATA"), tasks), "", *columns(("METRIC", "WHAT"), metrics)]

"""``vpgt lab``: run the paper's experiments, and report what came of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpgtrans_core.cli.columns import columns
from vpgtrans_core.errors import ConfigError, VpgtError

commands = typer.Typer(name="lab", no_args_is_help=True, help="Run the paper's experiments at any scale, and report.")


def add_to(app: typer.Typer) -> None:
    app.add_typer(commands, name="lab")


@commands.command()
def run(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="EXPERIMENT.yaml...", help="Experiments; see docs/lab.md.")],
    out: Annotated[Path | None, typer.Option(help="The laboratory's folder; default runs/lab/EXPERIMENT.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells that run at once.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan every cell, and run none; finished cells in --out say how long.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Run every cell of the experiments' matrices that is not finished. Called again, it goes on where it was."""
    from vpgtrans_core.lab.experiment import read_experiment

    experiments = [read_experiment(path) for path in files]
    names = [one.name for one in experiments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            [f"several experiments have the name {name!r}" for name in twice], "give each its own `name:`"
        )
    folder = (out or Path("runs", "lab", names[0])).expanduser().absolute()
    if dry_run:
        from vpgtrans_core.lab.folder import LabFolder
        from vpgtrans_core.lab.planning import plan_cells

        rows = plan_cells(experiments, ctx.obj.registry, LabFolder(folder), jobs)
        print("\n".join(columns(("CELL", "CAPTIONS", "GPU-HOURS", "SECONDS HERE"), rows, right=(1, 2, 3))))
        return
    if out is None and len(files) > 1:
        raise ConfigError(["several experiments need a folder for all of them"], "give --out DIR")
    from vpgtrans_core.lab.run import run_lab
    from vpgtrans_core.miniature.data import save_training

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    result = run_lab(experiments, folder, ctx.obj.registry, jobs=jobs, say=say, files=ctx.obj.files, draw=save_training)
    if result.failed:
        told = "\n".join(f"  - {name}: {cause}" for name, cause in result.failed.items())
        raise VpgtError(
            f"{len(result.failed)} of {result.cells} cells failed, {result.done} are finished:\n{told}",
            f"correct the cause and run the same command: finished cells are kept; `vpgt lab report {folder}` reports "
            "what there is",
        )
    print(f"{result.done} cells are finished in {folder}; `vpgt lab report {folder}` reports them")


@commands.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The laboratory's folder.")],
) -> None:
    """Write report.html and report.md into the folder: curves, speed-ups, costs, and the paper's findings judged."""
    from vpgtrans_core.lab.report import write_report

    for path in write_report(folder.expanduser()):
        print(f"written to {path}")
